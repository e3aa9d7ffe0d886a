"""LV-Bench, or any videos in its form, as a data set of encoded videos and timed captions."""
