"""Readers of public datasets in their published formats, and generators of synthetic tasks.

files      where datasets lie; the errors that readers raise
text       Tiny Shakespeare, WikiText-2: text as symbol ids, split 90/10
chorales   JSB chorales: chords and voices
ranking    Cranfield: documents, queries, judgements
sentiment  Stanford Sentiment Treebank, IMDB reviews, SemEval-2014 aspects
labelled   any file of labelled texts, as a stream of bounded memory
reviews    the embedded short reviews with their rationales
opinions   opinion words, and short phrases made of them
images     textured shapes by a generator; scikit-learn's handwritten digits
ratings    MovieLens: users, items, times
synthetic  tasks made by a random generator
circuit_tasks  prompts with and without a behaviour: retrieval, induction, IOI, greater-than, docstring
python_reference  the text that the shipped language model was trained on

A reader takes the path of a file in the published format. Called without one it looks beside a
source checkout (`attnlab.paths.shared_data`); public datasets are never part of this project.
"""
