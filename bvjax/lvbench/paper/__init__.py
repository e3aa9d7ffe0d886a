"""The paper's own definitions of VDE's five scores (appendix A.4.3, Eq. 20-25); no weights needed.

The appendix leaves the optical flow, the background mask, tau, the subject's detector and encoder,
and the aesthetic predictor open.  The choice for each is stated in its module:

flow.py       optical flow, shared by all metrics              camera.py   camera motion
scene.py      the subject's box and the background's mask      salient.py  a subject without ground truth
identity.py   appearance of a subject, as a unit vector
measuring.py  numbers per frame to scores per segment          working.py  smaller pictures
"""
