"""Which method for these images: the answer of `medpeft compare`, its plan, its page."""
