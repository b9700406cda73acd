"""What each set is, its layout on disk, its terms, and where to get it. Nothing is downloaded here."""

from dataclasses import dataclass

from sdseg.evaluation.benchmark_sets.items import Kind


@dataclass(frozen=True)
class Description:
    """A set as published."""

    title: str
    kind: Kind
    layout: str
    """the folder as its archive unpacks; `DIR` is the folder given to `open_set`"""
    licence: str
    how_to_get: str
    splits: dict[str, int | None]
    """name -> number of pictures as published (None: unknown); the first is the default"""
    citation: str


def _few_shot(name: str, title: str, licence: str, train: int, test: int, generated: bool = True) -> Description:
    """A set of ddpm-segmentation, all of which are in one archive."""
    layout = f"""\
DIR/{name}/
  real/test/<name>.png|jpg, <name>.npy   square picture, its labels beside it
  real/train/...
"""
    splits: dict[str, int | None] = {"test": test, "train": train}
    if generated:
        layout += "  ddpm/...                               the same for samples of a diffusion model\n"
        splits["ddpm"] = None
    return Description(
        title,
        "classes",
        layout,
        f"{licence}; the labels come with a repository under MIT",
        "datasets.tar.gz (47 MB), linked from github.com/yandex-research/ddpm-segmentation",
        splits,
        "Baranchuk et al., Label-efficient semantic segmentation with diffusion models, ICLR 2022",
    )


_MNIST_LAYOUT = """\
DIR/
  t10k-images-idx3-ubyte.gz    also unpacked, as t10k-images.idx3-ubyte, or in DIR/MNIST/raw/
  t10k-labels-idx1-ubyte.gz
  train-images-idx3-ubyte.gz   (split train)
  train-labels-idx1-ubyte.gz   (split train)
"""
_MNIST_LICENCE = "often given as CC BY-SA 3.0; no statement by its authors was found"
_MNIST_SOURCE = "yann.lecun.com/exdb/mnist, or the copies that deep-learning libraries fetch"
_MNIST_CITATION = "LeCun et al., Gradient-based learning applied to document recognition, Proc. IEEE 1998"
_P3M_SOURCE = "P3M-10k, linked from github.com/JizhiziLi/P3M; read its release agreement first"
_P3M_CITATION = "Li, Ma, Zhang, Tao, Privacy-preserving portrait matting, ACM MM 2021"

SETS: dict[str, Description] = {
    "aim-500": Description(
        "AIM-500",
        "matte",
        """\
DIR/
  original/<name>.jpg
  mask/<name>.png       alpha
  trimap/<name>.png     (optional) 0, 128, 255
""",
        "MIT, by its release agreement",
        "linked from github.com/JizhiziLi/AIM; read its release agreement first",
        {"test": 500},
        "Li, Zhang, Tao, Deep automatic natural image matting, IJCAI 2021",
    ),
    "am-2k": Description(
        "AM-2k",
        "matte",
        """\
DIR/
  validation/original/<name>.jpg
  validation/mask/<name>.png       alpha
  validation/trimap/<name>.png     (optional) 0, 128, 255
  train/...                        (split train)
""",
        "MIT, by its release agreement",
        "linked from github.com/JizhiziLi/GFM; read its release agreement first",
        {"validation": 200, "train": 1800},
        "Li, Zhang, Maybank, Tao, Bridging composite and real, IJCV 2022",
    ),
    "p3m-500-np": Description(
        "P3M-500-NP (faces as they are)",
        "matte",
        """\
DIR/validation/P3M-500-NP/
  original_image/<name>.jpg
  mask/<name>.png             alpha
  trimap/<name>.png           (optional) 0, 128, 255
""",
        "MIT, by its release agreement; photos of public persons",
        _P3M_SOURCE,
        {"validation": 500},
        _P3M_CITATION,
    ),
    "p3m-500-p": Description(
        "P3M-500-P (faces blurred)",
        "matte",
        """\
DIR/validation/P3M-500-P/
  blurred_image/<name>.jpg
  mask/<name>.png             alpha
  trimap/<name>.png           (optional) 0, 128, 255
""",
        "MIT, by its release agreement",
        _P3M_SOURCE,
        {"validation": 500},
        _P3M_CITATION,
    ),
    "ppm-100": Description(
        "PPM-100",
        "matte",
        """\
DIR/
  image/<name>.jpg
  matte/<name>.jpg   alpha, as JPEG
""",
        "photos: Flickr, Creative Commons with commercial use and changes; mattes: CC BY-NC-SA 4.0",
        "linked from github.com/ZHKKKe/PPM",
        {"test": 100},
        "Ke et al., MODNet, AAAI 2022",
    ),
    "composition-1k": Description(
        "Composition-1k",
        "matte",
        """\
DIR/
  Test_set/test_fg_names.txt                                50 foregrounds, one in each line
  Test_set/test_bg_names.txt                                1000 backgrounds, the next 20 for each foreground
  Test_set/Adobe-licensed images/fg/<foreground>.png
  Test_set/Adobe-licensed images/alpha/<foreground>.png
  Test_set/Adobe-licensed images/trimaps/<foreground>_<0 to 19>.png
  VOC2012/JPEGImages/<background>.jpg                       of PASCAL VOC 2012
""",
        "Adobe's licence for research, not to be passed on; backgrounds: see voc2012",
        "on request from its authors, sites.google.com/view/deepimagematting; the backgrounds with voc2012",
        {"test": 1000},
        "Xu, Price, Cohen, Huang, Deep image matting, CVPR 2017",
    ),
    "alphamatting": Description(
        "alphamatting.com, training pictures",
        "matte",
        """\
DIR/
  input_training_lowres/GT01.png
  trimap_training_lowres/Trimap1/GT01.png   0, 128, 255
  gt_training_lowres/GT01.png               alpha
  (split highres: the same with _highres)
""",
        "no statement found",
        "input_training_lowres.zip, trimap_training_lowres.zip, gt_training_lowres.zip from "
        "alphamatting.com/datasets.php, each unpacked into a folder of its name",
        {"lowres": 27, "highres": 27},
        "Rhemann et al., A perceptually motivated online benchmark for image matting, CVPR 2009",
    ),
    "dis5k": Description(
        "DIS5K",
        "binary",
        """\
DIR/
  DIS-VD/im/<name>.jpg
  DIS-VD/gt/<name>.png
  DIS-TE1/...            (splits DIS-TE1 to DIS-TE4, DIS-TR)
""",
        "its own terms of use (a PDF in the repository)",
        "linked from github.com/xuebinqin/DIS",
        {"DIS-VD": 470, "DIS-TE1": 500, "DIS-TE2": 500, "DIS-TE3": 500, "DIS-TE4": 500, "DIS-TR": 3000},
        "Qin et al., Highly accurate dichotomous image segmentation, ECCV 2022",
    ),
    "ecssd": Description(
        "ECSSD",
        "binary",
        """\
DIR/
  images/0001.jpg
  ground_truth_mask/0001.png
""",
        "no statement found; photos from the internet",
        "images.zip and ground_truth_mask.zip from www.cse.cuhk.edu.hk/leojia/projects/hsaliency/dataset.html",
        {"test": 1000},
        "Shi, Yan, Xu, Jia, Hierarchical image saliency detection on extended CSSD, TPAMI 2016",
    ),
    "duts-te": Description(
        "DUTS-TE",
        "binary",
        """\
DIR/
  DUTS-TE-Image/<name>.jpg
  DUTS-TE-Mask/<name>.png
""",
        "no statement found; photos from ImageNet and SUN",
        "DUTS-TE.zip from saliencydetection.net/duts",
        {"test": 5019},
        "Wang et al., Learning to detect salient objects with image-level supervision, CVPR 2017",
    ),
    "voc2012": Description(
        "PASCAL VOC 2012, segmentation",
        "classes",
        """\
DIR/VOCdevkit/VOC2012/
  JPEGImages/<name>.jpg
  SegmentationClass/<name>.png            palette PNG: 0 background, 1 to 20, 255 void
  ImageSets/Segmentation/val.txt          (splits train, trainval: their lists)
""",
        "photos: Flickr's terms of use; no licence of the annotations was found",
        "VOCtrainval_11-May-2012.tar from host.robots.ox.ac.uk/pascal/VOC/voc2012",
        {"val": 1449, "train": 1464, "trainval": 2913},
        "Everingham et al., The PASCAL visual object classes challenge 2012",
    ),
    "coco-stuff-27": Description(
        "COCO-Stuff-27",
        "classes",
        """\
DIR/
  val2017/<name>.jpg                          or images/val2017/
  annotations/val2017/<name>.png              or stuffthingmaps_trainval2017/val2017/; 0 to 181, 255 void
  Coco164kFull_Stuff_Coarse_7.txt             or curated/val2017/: the names of 2175 pictures
""",
        "annotations: CC BY 4.0; photos: Flickr's terms of use",
        "val2017.zip from cocodataset.org, stuffthingmaps_trainval2017.zip from github.com/nightrome/cocostuff, the "
        "list from github.com/google/diffseg (data/coco) or with github.com/mhamilton723/STEGO's data",
        {"val": 2175},
        "Caesar, Uijlings, Ferrari, COCO-Stuff, CVPR 2018; 27 classes: Ji, Henriques, Vedaldi, IIC, ICCV 2019",
    ),
    "cityscapes-27": Description(
        "Cityscapes-27",
        "classes",
        """\
DIR/
  leftImg8bit/val/<city>/<frame>_leftImg8bit.png
  gtFine/val/<city>/<frame>_gtFine_labelIds.png    0 to 6 void, 7 to 33
  (split train: the same)
""",
        "its own terms: registration, non-commercial; not to be passed on",
        "leftImg8bit_trainvaltest.zip and gtFine_trainvaltest.zip from www.cityscapes-dataset.com, after registration",
        {"val": 500, "train": 2975},
        "Cordts et al., The Cityscapes dataset, CVPR 2016; 27 classes: Cho et al., PiCIE, CVPR 2021",
    ),
    "bedroom_28": _few_shot("bedroom_28", "Bedroom-28", "photos of LSUN, no statement found", 40, 20),
    "ffhq_34": _few_shot("ffhq_34", "FFHQ-34", "photos of FFHQ, CC BY-NC-SA 4.0 as a set", 20, 20),
    "cat_15": _few_shot("cat_15", "Cat-15", "photos of LSUN, no statement found", 30, 20),
    "horse_21": _few_shot("horse_21", "Horse-21", "photos of LSUN, no statement found", 30, 30),
    "celeba_19": _few_shot(
        "celeba_19", "CelebA-19", "photos and labels of CelebAMask-HQ, non-commercial research", 20, 500, False
    ),
    "ade_bedroom_30": _few_shot(
        "ade_bedroom_30", "ADE-Bedroom-30", "photos and labels of ADE20K, whose terms apply", 50, 650, False
    ),
    "mnist": Description(
        "MNIST, digits as classes",
        "classes",
        _MNIST_LAYOUT,
        _MNIST_LICENCE,
        _MNIST_SOURCE,
        {"test": 10000, "train": 60000},
        _MNIST_CITATION,
    ),
    "mnist-ink": Description(
        "MNIST, ink against paper",
        "binary",
        _MNIST_LAYOUT,
        _MNIST_LICENCE,
        _MNIST_SOURCE,
        {"test": 10000, "train": 60000},
        _MNIST_CITATION,
    ),
    "brats2020": Description(
        "BraTS 2020, axial slices",
        "binary",
        """\
DIR/<case>/                      BraTS20_Training_001 to 369, also below MICCAI_BraTS2020_TrainingData/
  <case>_flair.nii.gz            or .nii; 240x240x155
  <case>_t1ce.nii.gz
  <case>_t2.nii.gz
  <case>_seg.nii.gz              0, 1, 2, 4
""",
        "after registration, for research; the organisers' terms apply",
        "www.med.upenn.edu/cbica/brats2020/data.html, after registration; reading needs nibabel (sdseg[medical])",
        {"training": 369 * 49},
        "Menze et al., BRATS, TMI 2015; slices: Wolleb et al., Implicit image segmentation ensembles, MIDL 2022",
    ),
}
