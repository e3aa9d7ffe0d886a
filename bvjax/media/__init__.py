"""Video files and images: in as arrays, out as H.264.

video_frames.py  the one way into a video file
source_video.py  a video at another rate and size; copies of frames without loss
video_io.py      writing mp4, reading images
"""
