# The nine classes that occur in 16 or more of the validation images; pixels of the others
# are ignored.
_base_ = './msrc21.py'
dataset_type = 'VOCFoldersDataset'
data_root = '{{$VOC_ANIMALS_ROOT:data/voc_animals}}'
metainfo = dict(
    classes=(
        *('background', 'cat', 'chair', 'cow', 'dog', 'horse', 'person', 'sheep'),
        'sofa',
    )
)
of_voc = dict(type=dataset_type, data_root=data_root, metainfo=metainfo)
train_dataloader = dict(dataset=of_voc)
val_dataloader = dict(dataset=of_voc)
test_dataloader = dict(dataset=of_voc)
