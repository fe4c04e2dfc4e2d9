"""Vision and language, from raw images: questions, statements, captions; and the mixture that the papers train on.

    questions    VQAv2, GQA, OK-VQA, VizWiz, TextVQA, DAQUAR, easy-VQA
    statements   NLVR, NLVR2, SNLI-VE
    captions     COCO (Karpathy's split), Flickr30k, NoCaps, Flickr8k

Image columns come undecoded; what a picture may be and what becomes of a bad one, `hyperpelt.vision.images` says.
NLVR, DAQUAR, easy-VQA and the sample of Flickr8k are read from a data root: no hub repository of their name is known.
"""

from __future__ import annotations

from hyperpelt import Mixture
from hyperpelt import register as add
from hyperpelt_tasks.vl import captions, questions, statements


def register() -> None:
    """Register all of them, and the mixture `vl` of VQAv2, GQA and COCO that VL-Adapter and HyperPELT train on."""
    for module in (questions, statements, captions):
        module.register()
    joint = ("vl/vqav2", "vl/gqa", "vl/coco-caption")
    add(Mixture(name="vl", rates=joint, description="VQAv2, GQA and COCO captions, as VL-Adapter and HyperPELT train."))
