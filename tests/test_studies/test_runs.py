"""Which runs are left."""

import pytest

from mmgcnl.studies import StudyError, other_batch_sizes, read_study
from mmgcnl.studies.records import append_records
from mmgcnl.studies.runs import LAST_ABLATION, LAST_METRIC, Execution, plan


def test_models_to_ablate(study_file, record, tmp_path):
    """Those that were trained and not ablated need a checkpoint; the others do not."""
    study = read_study(study_file, study_file.parent)
    rows = list(study.rows.values())
    options = Execution(study_file.parent, tmp_path, tmp_path / 'results.csv')
    runs, _ = plan(study, rows, [0, 1], options)

    def measured(run, *metrics):
        place = dict(row=run.row.name, seed=run.seed, settings=run.settings)
        append_records(options.csv, [record(**place, metric=m) for m in metrics])

    ablated, trained, without_block = runs[:3]
    measured(ablated, LAST_METRIC, 'cos_att', LAST_ABLATION)
    measured(trained, LAST_METRIC, 'cos_att')
    measured(without_block, LAST_METRIC)
    options = Execution(study_file.parent, tmp_path, options.csv, ablate=True)
    with pytest.raises(StudyError, match='no such checkpoint') as error:
        plan(study, rows, [0, 1], options)
    assert str(trained.checkpoint) in str(error.value)
    assert str(ablated.checkpoint) not in str(error.value)
    trained.folder.mkdir(parents=True)
    trained.checkpoint.touch()
    left, _ = plan(study, rows, [0, 1], options)
    assert [run.key for run in left] == [trained.key]


@pytest.mark.parametrize(
    ('settings', 'gpus', 'remedies'),
    [
        ('auto_scale_lr = dict(base_batch_size=8)', 4, []),
        ('auto_scale_lr = dict(base_batch_size=8)', 2, ['give --gpus 4']),
        ('auto_scale_lr = dict(base_batch_size=7)', 2, ['change its batch size']),
        ('auto_scale_lr = dict(base_batch_size=8, enable=True)', 2, []),
        ('', 2, []),
        (
            'auto_scale_lr = dict(base_batch_size=8)\n'
            'optim_wrapper = dict(accumulative_counts=2)',
            2,
            [],
        ),
    ],
)
def test_processes_that_do_not_fit_the_learning_rate(
    study_file, tmp_path, settings, gpus, remedies
):
    with open(tmp_path / 'plain.py', 'a') as config:
        config.write(f'train_dataloader = dict(batch_size=2)\n{settings}\n')
    study = read_study(study_file, tmp_path)
    options = Execution(tmp_path, tmp_path, tmp_path / 'results.csv', gpus=gpus)
    runs, _ = plan(study, [study.rows['plain']], [0, 1], options)
    assert [message.split(': ')[-1] for message in other_batch_sizes(runs)] == remedies
