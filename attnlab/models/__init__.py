"""Small real models that lessons train, take apart and explain.

language   a causal transformer language model with trained weights (PyTorch)
tokenizer  the byte-pair vocabulary it reads with
training   its training loop: checkpoints, resuming, an early stop that keeps the best weights
sequence   a tiny transformer with an exchangeable mixer, and the loop that trains it in seconds

Nothing is imported here, so that a program which only lists exhibits never loads PyTorch.
"""
