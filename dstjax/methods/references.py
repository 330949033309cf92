"""Holds the papers behind the catalogue, as BibTeX. Leaves out a field that we do not know."""

_BIBTEX = r"""
@article{rumelhart1986,
  author = {Rumelhart, David E. and Hinton, Geoffrey E. and Williams, Ronald J.},
  title = {Learning representations by back-propagating errors},
  journal = {Nature}, volume = {323}, pages = {533--536}, year = {1986},
}

@inproceedings{han2015,
  author = {Han, Song and Pool, Jeff and Tran, John and Dally, William},
  title = {Learning both Weights and Connections for Efficient Neural Networks},
  booktitle = {Advances in Neural Information Processing Systems}, volume = {28}, year = {2015},
  eprint = {1506.02626}, archiveprefix = {arXiv},
}

@article{zhu2017,
  author = {Zhu, Michael and Gupta, Suyog},
  title = {To prune, or not to prune: exploring the efficacy of pruning for model compression},
  journal = {arXiv preprint arXiv:1710.01878}, year = {2017},
  eprint = {1710.01878}, archiveprefix = {arXiv},
}

@inproceedings{bellec2018,
  author = {Bellec, Guillaume and Kappel, David and Maass, Wolfgang and Legenstein, Robert},
  title = {Deep Rewiring: Training very sparse deep networks},
  booktitle = {International Conference on Learning Representations}, year = {2018},
  eprint = {1711.05136}, archiveprefix = {arXiv},
}

@article{mocanu2018,
  author = {Mocanu, Decebal Constantin and Mocanu, Elena and Stone, Peter and Nguyen, Phuong H. and
            Gibescu, Madeleine and Liotta, Antonio},
  title = {Scalable Training of Artificial Neural Networks with Adaptive Sparse Connectivity inspired by Network
           Science},
  journal = {Nature Communications}, volume = {9}, number = {1}, pages = {1--12}, year = {2018},
  eprint = {1707.04780}, archiveprefix = {arXiv},
}

@inproceedings{zhang2018,
  author = {Zhang, Tianyun and Ye, Shaokai and Zhang, Kaiqi and Tang, Jian and Wen, Wujie and Fardad, Makan and
            Wang, Yanzhi},
  title = {A Systematic {DNN} Weight Pruning Framework using Alternating Direction Method of Multipliers},
  booktitle = {European Conference on Computer Vision}, year = {2018},
  eprint = {1804.03294}, archiveprefix = {arXiv},
}

@article{dettmers2019,
  author = {Dettmers, Tim and Zettlemoyer, Luke},
  title = {Sparse Networks from Scratch: Faster Training without Losing Performance},
  journal = {arXiv preprint arXiv:1907.04840}, year = {2019},
  eprint = {1907.04840}, archiveprefix = {arXiv},
}

@inproceedings{lee2019,
  author = {Lee, Namhoon and Ajanthan, Thalaiyasingam and Torr, Philip H. S.},
  title = {{SNIP}: Single-shot Network Pruning based on Connection Sensitivity},
  booktitle = {International Conference on Learning Representations}, year = {2019},
  eprint = {1810.02340}, archiveprefix = {arXiv},
}

@inproceedings{mostafa2019,
  author = {Mostafa, Hesham and Wang, Xin},
  title = {Parameter efficient training of deep convolutional neural networks by dynamic sparse reparameterization},
  booktitle = {International Conference on Machine Learning}, pages = {4646--4655}, publisher = {PMLR}, year = {2019},
}

@inproceedings{evci2020,
  author = {Evci, Utku and Gale, Trevor and Menick, Jacob and Castro, Pablo Samuel and Elsen, Erich},
  title = {Rigging the Lottery: Making All Tickets Winners},
  booktitle = {International Conference on Machine Learning}, pages = {2943--2952}, publisher = {PMLR}, year = {2020},
  eprint = {1911.11134}, archiveprefix = {arXiv},
}

@inproceedings{jayakumar2020,
  author = {Jayakumar, Siddhant and Pascanu, Razvan and Rae, Jack and Osindero, Simon and Elsen, Erich},
  title = {Top-{KAST}: Top-{K} Always Sparse Training},
  booktitle = {Advances in Neural Information Processing Systems}, volume = {33}, pages = {20744--20754}, year = {2020},
  eprint = {2106.03517}, archiveprefix = {arXiv},
}

@inproceedings{kusupati2020,
  author = {Kusupati, Aditya and Ramanujan, Vivek and Somani, Raghav and Wortsman, Mitchell and Jain, Prateek and
            Kakade, Sham and Farhadi, Ali},
  title = {Soft Threshold Weight Reparameterization for Learnable Sparsity},
  booktitle = {International Conference on Machine Learning}, pages = {5544--5555}, publisher = {PMLR}, year = {2020},
}

@misc{lapshyna2020,
  author = {Lapshyna, Viktoriia},
  title = {Sparse artificial neural networks: Adaptive performance-based connectivity inspired by human-brain
           processes},
  howpublished = {Essay, University of Twente}, year = {2020}, url = {http://essay.utwente.nl/80559/},
}

@inproceedings{lin2020,
  author = {Lin, Tao and Stich, Sebastian U. and Barba, Luis and Dmitriev, Daniil and Jaggi, Martin},
  title = {Dynamic Model Pruning with Feedback},
  booktitle = {International Conference on Learning Representations}, year = {2020},
  eprint = {2006.07253}, archiveprefix = {arXiv},
}

@inproceedings{tanaka2020,
  author = {Tanaka, Hidenori and Kunin, Daniel and Yamins, Daniel L. K. and Ganguli, Surya},
  title = {Pruning neural networks without any data by iteratively conserving synaptic flow},
  booktitle = {Advances in Neural Information Processing Systems}, volume = {33}, pages = {6377--6389}, year = {2020},
}

@inproceedings{wang2020,
  author = {Wang, Chaoqi and Zhang, Guodong and Grosse, Roger},
  title = {Picking Winning Tickets Before Training by Preserving Gradient Flow},
  booktitle = {International Conference on Learning Representations}, year = {2020},
  eprint = {2002.07376}, archiveprefix = {arXiv},
}

@inproceedings{dejorge2021,
  author = {de Jorge, Pau and Sanyal, Amartya and Behl, Harkirat S. and Torr, Philip H. S. and Rogez, Gr{\'e}gory and
            Dokania, Puneet K.},
  title = {Progressive Skeletonization: Trimming more fat from a network at initialization},
  booktitle = {International Conference on Learning Representations}, year = {2021},
}

@article{kim2021,
  author = {Kim, Jangho and Yoo, Jayeon and Song, Yeji and Yoo, KiYoon and Kwak, Nojun},
  title = {Dynamic Collective Intelligence Learning: Finding Efficient Sparse Model via Refined Gradients for Pruned
           Weights},
  journal = {arXiv preprint arXiv:2109.04660}, year = {2021},
  eprint = {2109.04660}, archiveprefix = {arXiv},
}

@inproceedings{liu2021granet,
  author = {Liu, Shiwei and Chen, Tianlong and Chen, Xiaohan and Atashgahi, Zahra and Yin, Lu and Kou, Huanyu and
            Shen, Li and Pechenizkiy, Mykola and Wang, Zhangyang and Mocanu, Decebal Constantin},
  title = {Sparse Training via Boosting Pruning Plasticity with Neuroregeneration},
  booktitle = {Advances in Neural Information Processing Systems}, volume = {34}, pages = {9908--9922}, year = {2021},
}

@inproceedings{liu2021itop,
  author = {Liu, Shiwei and Yin, Lu and Mocanu, Decebal Constantin and Pechenizkiy, Mykola},
  title = {Do We Actually Need Dense Over-Parameterization? {I}n-Time Over-Parameterization in Sparse Training},
  booktitle = {International Conference on Machine Learning}, pages = {6989--7000}, publisher = {PMLR}, year = {2021},
  eprint = {2102.02887}, archiveprefix = {arXiv},
}

@article{mishra2021,
  author = {Mishra, Asit and Latorre, Jorge Albericio and Pool, Jeff and Stosic, Darko and Stosic, Dusan and
            Venkatesh, Ganesh and Yu, Chong and Micikevicius, Paulius},
  title = {Accelerating Sparse Deep Neural Networks},
  journal = {arXiv preprint arXiv:2104.08378}, year = {2021},
  eprint = {2104.08378}, archiveprefix = {arXiv},
}

@inproceedings{verma2021,
  author = {Verma, Sagar and Pesquet, Jean-Christophe},
  title = {Sparsifying Networks via Subdifferential Inclusion},
  booktitle = {International Conference on Machine Learning}, pages = {10542--10552}, publisher = {PMLR}, year = {2021},
}

@inproceedings{yuan2021,
  author = {Yuan, Geng and Ma, Xiaolong and Niu, Wei and Li, Zhengang and Kong, Zhenglun and Liu, Ning and
            Gong, Yifan and Zhan, Zheng and He, Chaoyang and Jin, Qing and others},
  title = {{MEST}: Accurate and Fast Memory-Economic Sparse Training Framework on the Edge},
  booktitle = {Advances in Neural Information Processing Systems}, volume = {34}, pages = {20838--20850}, year = {2021},
  eprint = {2110.14032}, archiveprefix = {arXiv},
}

@inproceedings{zhou2021,
  author = {Zhou, Aojun and Ma, Yukun and Zhu, Junnan and Liu, Jianbo and Zhang, Zhijie and Yuan, Kun and
            Sun, Wenxiu and Li, Hongsheng},
  title = {Learning {N:M} Fine-grained Structured Sparse Neural Networks From Scratch},
  booktitle = {International Conference on Learning Representations}, year = {2021},
  eprint = {2102.04010}, archiveprefix = {arXiv},
}

@inproceedings{liu2022,
  author = {Liu, Shiwei and Chen, Tianlong and Chen, Xiaohan and Shen, Li and Mocanu, Decebal Constantin and
            Wang, Zhangyang and Pechenizkiy, Mykola},
  title = {The Unreasonable Effectiveness of Random Pruning: Return of the Most Naive Baseline for Sparse Training},
  booktitle = {International Conference on Learning Representations}, year = {2022},
  eprint = {2202.02643}, archiveprefix = {arXiv},
}

@inproceedings{ma2022,
  author = {Ma, Xiaolong and Qin, Minghai and Sun, Fei and Hou, Zejiang and Yuan, Kun and Xu, Yi and Wang, Yanzhi and
            Chen, Yen-Kuang and Jin, Rong and Xie, Yuan},
  title = {Effective Model Sparsification by Scheduled Grow-and-Prune Methods},
  booktitle = {International Conference on Learning Representations}, year = {2022},
  eprint = {2106.09857}, archiveprefix = {arXiv},
}

@inproceedings{scholte2022,
  author = {Scholte, Harmen},
  title = {Regrowing Strategies for Dynamic Sparse Training},
  booktitle = {TScIT 37}, address = {Enschede, The Netherlands}, year = {2022},
  url = {https://purl.utwente.nl/essays/91812},
}

@inproceedings{huang2023,
  author = {Huang, Shaoyi and Lei, Bowen and Xu, Dongkuan and Peng, Hongwu and Sun, Yue and Xie, Mimi and
            Ding, Caiwen},
  title = {Dynamic Sparse Training via Balancing the Exploration-Exploitation Trade-off},
  booktitle = {60th ACM/IEEE Design Automation Conference}, year = {2023},
  eprint = {2211.16667}, archiveprefix = {arXiv},
}

@inproceedings{nowak2023,
  author = {Nowak, Aleksandra I. and Grooten, Bram and Mocanu, Decebal Constantin and Tabor, Jacek},
  title = {Fantastic Weights and How to Find Them: Where to Prune in Dynamic Sparse Training},
  booktitle = {Advances in Neural Information Processing Systems}, year = {2023},
  eprint = {2306.12230}, archiveprefix = {arXiv},
}

@inproceedings{lasby2024,
  author = {Lasby, Mike and Golubeva, Anna and Evci, Utku and Nica, Mihai and Ioannou, Yani},
  title = {Dynamic Sparse Training with Structured Sparsity},
  booktitle = {International Conference on Learning Representations}, year = {2024},
  eprint = {2305.02299}, archiveprefix = {arXiv},
}

@inproceedings{sun2025,
  author = {Sun, Xinglong and Shen, Maying and Yin, Hongxu and Mao, Lei and Molchanov, Pavlo and Alvarez, Jose M.},
  title = {Advancing Weight and Channel Sparsification with Enhanced Saliency},
  booktitle = {Winter Conference on Applications of Computer Vision}, pages = {7244--7255}, year = {2025},
  eprint = {2502.03658}, archiveprefix = {arXiv},
}
"""

ENTRIES: dict[str, str] = {e.split("{")[1].split(",")[0]: e for e in _BIBTEX.strip().split("\n\n")}
