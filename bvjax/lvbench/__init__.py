"""Measures of how a long video changes along the way (paper section 4 and appendix A.4).

vde.py      the Video Drift Error shell: any score per segment -> one number (Eq. 18, 19)
clarity.py  sharpness of a frame: variance of the Laplacian (Eq. 20)
motion.py   motion between two frames: mean optical flow (Eq. 21, 22)
"""
