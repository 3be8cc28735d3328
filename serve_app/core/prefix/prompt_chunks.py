"""A prompt as a chain of hashes: two prompts that begin alike share the first hashes.

An engine hashes blocks of tokens; to have these here, its tokenizer would work twice. Chunks of
text stand for them, as in llm-d's and AIBrix's routers: what is shared is underestimated by one
chunk at most.
"""

import hashlib
import itertools

# About 128 tokens of English, eight of vLLM's blocks on a GPU and one on the CPU.
CHUNK_BYTES = 512
# 64 KiB, about 16,000 tokens. Of a longer prompt only the begin is compared.
MOST_CHUNKS = 128
HASH_BYTES = 8

Chunk = bytes


def prompt_chunks(key: bytes, root: bytes, text: bytes) -> tuple[Chunk, ...]:
    """The chain of the whole chunks of `text`; each hash stands for all before it too. `root` is
    what stands before the text in the prompt, or keeps it apart from others'. `key` is secret: the
    hashes go to other replicas, and nobody can guess a prompt by them. At most 64 bytes."""
    whole = min(len(text) // CHUNK_BYTES, MOST_CHUNKS)
    state = hashlib.blake2b(root, key=key, digest_size=HASH_BYTES)
    chunks: list[Chunk] = []
    for start, end in itertools.pairwise(range(0, (whole + 1) * CHUNK_BYTES, CHUNK_BYTES)):
        state.update(text[start:end])
        chunks.append(state.copy().digest())
    return tuple(chunks)
