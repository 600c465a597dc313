"""Maestro's loss and schedule inside a `transformers.Trainer`."""

import json

import pytest
import torch
from torch.utils.data import Dataset
from transformers import Trainer, TrainingArguments

from fullrank.compress import LoD, MaestroCallback, MaestroMixin, decompose
from fullrank.compress.maestro import maestro_layers

from .models import bert


class MaestroTrainer(MaestroMixin, Trainer):
    pass


class Sentences(Dataset):
    def __init__(self, labels=True):
        generator = torch.Generator().manual_seed(0)
        self.ids = torch.randint(1, 40, (12, 5), generator=generator)
        self.labels = labels

    def __len__(self):
        return len(self.ids)

    def __getitem__(self, index):
        label = {"labels": int(self.ids[index, 0] % 3)} if self.labels else {}
        return {"input_ids": self.ids[index], **label}


def trainer(folder, epochs, lam=0.05, labels=True, **options):
    model = decompose(bert())
    lod = LoD(model, lam=lam, threshold=0.2, relative=True, distill=False)
    args = TrainingArguments(
        output_dir=str(folder), num_train_epochs=epochs, per_device_train_batch_size=4, learning_rate=1e-2,
        save_strategy="epoch", report_to=[], disable_tqdm=True, use_cpu=True, **options,
    )  # fmt: skip
    return MaestroTrainer(
        lod, model=model, args=args, train_dataset=Sentences(labels), callbacks=[MaestroCallback(lod)]
    )


def ranks(model):
    return {name: layer.rank for name, layer in maestro_layers(model).items()}


def test_layers_shrink_with_their_optimiser_state_and_training_resumes(tmp_path):
    first = trainer(tmp_path, epochs=2)
    before = ranks(first.model)
    first.train()
    after = ranks(first.model)
    assert all(after[name] <= before[name] for name in before)
    assert sum(after.values()) < sum(before.values())
    moments = first.optimizer.optimizer.state if hasattr(first.optimizer, "optimizer") else first.optimizer.state
    for layer in maestro_layers(first.model).values():
        assert moments[layer.U]["exp_avg"].shape == layer.U.shape == (layer.U.shape[0], layer.rank)
    saved = json.loads((tmp_path / "checkpoint-6" / "maestro.json").read_text())
    assert saved["step"] == first.lod.step == 6

    second = trainer(tmp_path, epochs=3)
    second.train(resume_from_checkpoint=str(tmp_path / "checkpoint-6"))
    assert second.lod.step == 9
    assert all(rank <= after[name] for name, rank in ranks(second.model).items())


def test_the_loss_is_that_of_lod_and_evaluation_keeps_its_own(tmp_path):
    made = trainer(tmp_path, epochs=1, lam=0.0)
    batch = {"input_ids": Sentences().ids[:4], "labels": torch.tensor([0, 1, 2, 0])}
    made.model.train()
    for module in made.model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    total, outputs = made.compute_loss(made.model, batch, return_outputs=True)
    full = made.model(**batch).loss
    assert total > full  # the sampled network is in it
    torch.testing.assert_close(outputs["loss"], full)
    made.model.eval()
    torch.testing.assert_close(made.compute_loss(made.model, batch), made.model(**batch).loss)


def test_accumulated_steps_are_averaged(tmp_path):
    made = trainer(tmp_path, epochs=1, gradient_accumulation_steps=3)
    made.train()
    assert made.lod.step == 3
    assert made.state.global_step == 1


def test_batches_without_labels_are_refused(tmp_path):
    with pytest.raises(ValueError, match="the batch needs labels"):
        trainer(tmp_path, epochs=1, labels=False).train()


def test_a_damaged_state_is_refused(tmp_path):
    first = trainer(tmp_path, epochs=1)
    first.train()
    (tmp_path / "checkpoint-3" / "maestro.json").write_text("{}")
    with pytest.raises(ValueError, match="is damaged: step, seed and lam"):
        trainer(tmp_path, epochs=2).train(resume_from_checkpoint=str(tmp_path / "checkpoint-3"))
