"""The paper's own definitions of VDE's five scores (appendix A.4.3, Eq. 20-25); no weights needed.

The appendix leaves the optical flow, the background mask, tau, the subject's detector and encoder,
and the aesthetic predictor open.  What stands in for each is stated where it is made:

flow.py       optical flow, one for all metrics that ask       camera.py   what the camera did
scene.py      the subject's box and the background's mask      salient.py  a subject without ground truth
identity.py   what a subject looks like, as a vector
measuring.py  numbers per frame to scores per segment          working.py  smaller pictures
"""
