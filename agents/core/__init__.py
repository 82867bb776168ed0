"""The backprop-trained network core that every agent shares."""
