"""Which family a model belongs to, by its name or its chat template."""

R1_FAMILY = "deepseek-r1"
# DeepSeek's turns, which V2.5 has too, and a thought.
R1_MARKS = ("<｜Assistant｜>", "think>")
VLLMS_R1_PARSER = "deepseek_r1"
# vLLM's with what `engine/vllm/patches` adds.
R1_PARSER = "tierserve_r1"


def is_r1(name: str, chat_template: str | None) -> bool:
    """A DeepSeek-R1 distill. A directory may have any name; its template gives it away."""
    if R1_FAMILY in name.lower():
        return True
    return chat_template is not None and all(mark in chat_template for mark in R1_MARKS)
