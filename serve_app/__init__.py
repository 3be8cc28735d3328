"""tierserve: a chat tier and a reasoning tier on vLLM, one replica on each GPU, behind one port."""
