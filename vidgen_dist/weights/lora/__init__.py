"""LoRA (Hu et al. 2021, arXiv:2106.09685): files of small matrices that change a checkpoint's weights.

`files` opens them, `layout` says what each of their tensors is, `fit` finds the parameters that they change,
and `merge` adds them to weights as those are read: a merged model computes as fast as its checkpoint alone.
"""
