"""Small real models that lessons train, take apart and explain.

language   a causal transformer language model with trained weights (PyTorch)
tokenizer  the byte-pair vocabulary it reads with
training   its training loop: checkpoints, resuming, an early stop that keeps the best weights
sequence   a tiny transformer with an exchangeable mixer, and the loop that trains it in seconds

classifier           what a model must offer to be explained
classifiers          text classifiers by name: load, train, save; `classifier_training` trains them
bilstm               a BiLSTM with additive attention
text_transformer     a small transformer encoder
bert, bert_numpy     a pretrained encoder with a classification head; the encoder in plain NumPy
huggingface          any Hugging Face sequence classifier or causal model
words, wordpiece     how they cut a text into tokens
word_vectors         vectors of common words, what small classifiers begin with
propagation          the gradient that conserves relevance
images               a small convolutional network for images, with weights for digits
circuits   tiny attention-only transformers for circuit tasks, trained weights, lesions; circuit_training

Nothing is imported here, so that a program which only lists exhibits never loads PyTorch.
"""
