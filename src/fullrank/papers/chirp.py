"""Chirp Localization via Fine-Tuned Transformer Model: A Proof-of-Concept Study (EEG chirp localiser)."""

from fullrank.papers import Claim, Paper

PAPER = Paper(
    slug="chirp",
    title="Chirp Localization via Fine-Tuned Transformer Model: A Proof-of-Concept Study",
    authors=2,
    published="2025-03-24",
    arxiv="2503.22713",
    position=28,
    repository="https://github.com/nbahador/Train_Spectrogram_Transformer",
    topics=(
        "biosignals",
        "vision",
    ),
    summary=(
        "Chirps, frequencies that sweep, mark the start of epileptic seizures in EEG spectrograms. The authors "
        "draw 100,000 synthetic spectrograms and adapt a vision transformer with LoRA to regress onset time, "
        "onset frequency and end frequency. Predicted and true onset time correlate at 0.984."
    ),
    notes=(
        "The official training scales labels with statistics of all data, the test set included, and stops "
        "early on the test set; the fair protocol is ours. The network localises synthetic chirps; a direct "
        "ridge detector should do better still, so it stands beside it."
    ),
    claims=(
        Claim(
            id="onset-correlation",
            says="Predicted and true onset times correlate with r = 0.9841 on 20,000 synthetic spectrograms.",
            source="abstract",
            paper_value=0.9841,
            unit="r",
            needs="100,000 spectrograms, a pretrained ViT-B and a GPU",
        ),
        Claim(
            id="inference-time",
            says="The test pass takes 137 to 140 s.",
            source="abstract, hardware not stated",
            paper_value="137 to 140",
            unit="s",
            needs="the authors' unnamed hardware",
        ),
        Claim(
            id="minimal-bias",
            says="Errors show minimal bias.",
            source="abstract",
            unit="share of the error's deviation",
            holds=lambda bias: abs(bias) < 0.1,
        ),
        Claim(
            id="frequency-correlations",
            says="Onset and offset frequencies correlate as well.",
            source="figures, numbers not confirmed",
            unit="r",
            holds=lambda m: min(m["onset frequency"], m["offset frequency"]) > 0.5,
            confirmed=False,
        ),
        Claim(
            id="benchmark-size",
            says="The first large benchmark of chirp localisation holds 100,000 spectrograms.",
            source="abstract",
            paper_value=100000,
            unit="spectrograms",
            needs="the published data set",
        ),
        Claim(
            id="lora-adapts",
            says=(
                "LoRA on attention is at least as good as a frozen backbone on every target and reaches 90 % of"
                " full fine-tuning with under 15 % of its parameters."
            ),
            source="method",
            holds=lambda m: m["LoRA"] >= m["frozen"] and m["LoRA"] >= 0.9 * m["full"] and m["parameter share"] < 0.15,
        ),
        Claim(
            id="pretraining-helps",
            says="LoRA on a pretrained backbone beats LoRA on a random one.",
            source="method",
            unit="r",
            holds=lambda m: m["pretrained"] > m["random"],
        ),
        Claim(
            id="onset-small-scale",
            says="At small scale the best network reaches r of at least 0.95 in onset time.",
            source="the abstract's claim at 64 x 64",
            paper_value=0.9841,
            unit="r",
            holds=lambda r: r >= 0.95,
        ),
        Claim(
            id="lora-size",
            says="On ViT-B the adapter has 294,912 parameters and the head 230,147.",
            source="derived from the code",
            paper_value={"adapter": 294912, "head": 230147},
            unit="parameters",
            holds=lambda m: (m["adapter"], m["head"]) == (294912, 230147),
        ),
        Claim(
            id="ridge-detector",
            says="A classical ridge detector correlates better in onset time than the published network.",
            source="bound on bin quantisation",
            paper_value=0.9841,
            unit="r",
            holds=lambda r: r > 0.9841,
            kind="finding",
        ),
    ),
)
