"""Corpora: any amount of plain text, streamed from files, tokenized once into a memory-mapped file, and read as rows of tokens.

``sources`` finds the files behind a path and gives their documents one by one (``plain``: text files, ``tables``: columns of tables and
data sets); ``tokens`` holds documents as token ids, in memory or on disk; ``tokenizing`` fills them, in several processes (``worker``)
where there is much to do; ``rows`` cuts them into the rows a model reads; ``nearest`` chooses documents that are like a task's texts.
"""
