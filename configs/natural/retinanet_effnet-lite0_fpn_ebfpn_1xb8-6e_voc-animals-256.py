_base_ = [
    './retinanet_effnet-lite0_fpn_1xb8-6e_voc-animals-256.py',
    '../_base_/models/refined_fpn.py',
]
ebfpn = dict(_base_.ebfpn, in_channels=64, refine_level=1)
model = dict(neck=[_base_.model.neck, ebfpn])
