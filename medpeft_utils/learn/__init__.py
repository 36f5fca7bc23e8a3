"""What the learning notebooks show: blocks of networks, what a method trains in them, short lessons, and the book.

`diagram.block` draws where a method sits, `bars.network` what becomes trainable, and a `lesson.Lesson` trains for
seconds and shows predictions before and after. `book.py` executes the notebooks, `pages.py` builds HTML from them.
"""
