"""A segmentor laid out as SCLIP's code lays it out, with its mmseg parts: words and classes, sliding, thresholds.

The names, the order of calls and what is kept are SCLIP's, which ClearCLIP's segmentor and every mmseg fork of them
share; the text is this project's own.
"""

from types import SimpleNamespace

import torch
from released_clip import templates, tokenize
from torch import nn


def get_cls_idx(lines):
    """A class a line, synonyms after commas -> words, and the class of each word."""
    class_names, class_indices = [], []
    for index, line in enumerate(lines):
        words = line.split(", ")
        class_names += words
        class_indices += [index] * len(words)
    return class_names, class_indices


def word_features(words, encode_text, templates=templates):
    rows = []
    for word in words:
        feature = nn.functional.normalize(encode_text(tokenize([temp(word) for temp in templates])), dim=-1)
        rows.append(nn.functional.normalize(feature.mean(0), dim=-1))
    return torch.stack(rows)


class CLIPForSegmentation(nn.Module):
    """Without mmseg's own base; ``lines`` in place of the file of names."""

    def __init__(self, net, lines, prob_thd=0.0, logit_scale=40, slide_stride=112, slide_crop=224, area_thd=None):
        super().__init__()
        self.net = net
        query_words, query_idx = get_cls_idx(lines)
        self.num_queries = len(query_words)
        self.num_classes = max(query_idx) + 1
        self.query_idx = torch.tensor(query_idx)
        self.query_features = word_features(query_words, net.encode_text)
        self.dtype = self.query_features.dtype
        self.logit_scale, self.prob_thd, self.area_thd = logit_scale, prob_thd, area_thd
        self.slide_stride, self.slide_crop = slide_stride, slide_crop

    def forward_feature(self, img, logit_size=None):
        image_features = self.net.encode_image(img, return_all=True, csa=True)
        image_features = nn.functional.normalize(image_features, dim=-1)[:, 1:]
        logits = image_features @ self.query_features.T
        w, h = (side // self.net.visual.patch_size for side in img[0].shape[-2:])
        return self.upsampled(logits.permute(0, 2, 1).reshape(-1, logits.shape[-1], w, h), img, logit_size)

    def upsampled(self, logits, img, logit_size):
        size = img.shape[-2:] if logit_size is None else logit_size
        return nn.functional.interpolate(logits, size=size, mode="bilinear")

    def forward_slide(self, img, img_metas, stride=112, crop_size=224):
        batch_size, _, height, width = img.shape
        preds = img.new_zeros((batch_size, self.num_queries, height, width))
        count_mat = img.new_zeros((batch_size, 1, height, width))
        for top in starts(height, stride, crop_size):
            for left in starts(width, stride, crop_size):
                bottom, right = min(top + crop_size, height), min(left + crop_size, width)
                logit = self.forward_feature(img[:, :, top:bottom, left:right])
                preds += nn.functional.pad(logit, (left, width - right, top, height - bottom))
                count_mat[:, :, top:bottom, left:right] += 1
        return nn.functional.interpolate(preds / count_mat, size=img_metas[0]["ori_shape"][:2], mode="bilinear")

    def predict(self, inputs, data_samples):
        metas = [data_sample.metainfo for data_sample in data_samples]
        if self.slide_crop > 0:
            seg_logits = self.forward_slide(inputs, metas, self.slide_stride, self.slide_crop)
        else:
            seg_logits = self.forward_feature(inputs, metas[0]["ori_shape"])
        return self.postprocess_result(seg_logits, data_samples)

    def postprocess_result(self, seg_logits, data_samples):
        """Softmax over words, the largest of a class's words; the original does one image, this one all of them."""
        for logits, data_sample in zip(seg_logits, data_samples):
            probability = (logits * self.logit_scale).softmax(0)
            num_cls, num_queries = int(self.query_idx.max()) + 1, len(self.query_idx)
            if num_cls != num_queries:
                cls_index = nn.functional.one_hot(self.query_idx).T.reshape(num_cls, num_queries, 1, 1)
                probability = (probability[None] * cls_index).amax(1)
            seg_pred = probability.argmax(0, keepdim=True)
            seg_pred[probability.amax(0, keepdim=True) < self.prob_thd] = 0
            data_sample.seg_logits, data_sample.pred_sem_seg = probability, seg_pred
        return data_samples


def starts(side, stride, crop):
    """Top or left of each window, the last one moved back inside."""
    count = max(side - crop + stride - 1, 0) // stride + 1
    return [max(min(i * stride + crop, side) - crop, 0) for i in range(count)]


def data_sample(height, width):
    return SimpleNamespace(metainfo={"ori_shape": (height, width)})
