"""Saved adapters for other tools and from them: peft's and diffusers' layouts, model cards, predictions for new images.

medpeft adapter export RUN DIR [--to peft|diffusers]
medpeft adapter load DIR
medpeft adapter push DIR hf:owner/name
medpeft predict RUN|ADAPTER IMAGES...
"""
