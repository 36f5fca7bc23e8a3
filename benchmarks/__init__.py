"""`medpeft bench`: how fast this machine trains, starts and loads, measured against plain code and against the aims.

steps     a training step of every method against the same written plainly and against the best hand-written loop
startup   what a run costs over its work, forked kernels against plain papermill
loader    images a second from a packed cache, with augmentation
scaling   the same runs with one worker and with two
memory    the runner's memory over many runs
"""
