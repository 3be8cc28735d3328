"""micro-r1: a tiny reasoning model trained from scratch on arithmetic word problems."""
