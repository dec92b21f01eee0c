"""A segmentor laid out as the released CDAM code lays it out: its names, its buffer, its order of calls.

Written for the tests from the method's equations. ``kl_temp_weight`` is a buffer of zeros that the constructor makes,
that the map is written into and that the second pass attends with.
"""

import torch
from released_clip import templates, tokenize
from torch import nn


class CLIPForSegmentation(nn.Module):
    """Without mmseg's own base: one image at a time, words and augmented prompts in one list."""

    NUM = 80
    """Augmented prompts, the last words of the list."""

    def __init__(self, net, query_words, query_idx, heads=12, tokens=785):
        super().__init__()
        self.net = net
        self.num_queries = len(query_words) - self.NUM
        self.query_idx = torch.tensor(query_idx)[: -self.NUM]
        features = []
        for word in query_words:
            feature = nn.functional.normalize(net.encode_text(tokenize([temp(word) for temp in templates])), dim=-1)
            features.append(nn.functional.normalize(feature.mean(0, keepdim=True), dim=-1))
        self.query_features_ori = torch.cat(features)
        self.query_features = self.query_features_ori[: -self.NUM]
        self.window = self.slide = 0
        self.prob_thd, self.logit_scale = 0.5, 50
        self.m = nn.Softmax(dim=0)
        self.kl_temp_weight = torch.zeros(heads, tokens, tokens, dtype=net.dtype)

    def forward_feature(self, img, logit_size=None):
        image_features = self.net.encode_image(img, self.window, self.slide, return_all=True, csa=True)
        image_features = nn.functional.normalize(image_features, dim=-1)[:, 1:]
        logits = image_features @ self.query_features_ori.T
        w, h = (side // self.net.visual.patch_size for side in img[0].shape[-2:])
        logits = logits.permute(0, 2, 1).reshape(-1, logits.shape[-1], w, h)
        logits_no_inter = logits.clone()
        with torch.no_grad():
            kl_temp_weight = self.kl_temp_weight
            # the map begins
            logits_sm = self.m(logits_no_inter[0] / 0.1)
            if w * h + 1 != self.kl_temp_weight.shape[-1]:
                heads = len(self.kl_temp_weight)
                kl_temp_weight = torch.zeros(heads, w * h + 1, w * h + 1, dtype=logits.dtype)
            softmax_temp = nn.Softmax(dim=1)
            attn_list = [stretched(1 - divergence(logits_sm.flatten(1)), softmax_temp)]
            for size in (0.25, 0.37, 0.5, 0.63, 0.75, 0.87):
                small = (int(w * size), int(h * size))
                resized = nn.functional.interpolate(logits_no_inter, size=small, mode="bilinear")
                kl_temp = divergence(self.m(resized[0] / 0.1).flatten(1))
                for _ in range(2):  # the columns, then the rows
                    kl_temp = nn.functional.interpolate(kl_temp.reshape(1, -1, *small), size=(w, h), mode="bilinear")
                    kl_temp = kl_temp.flatten(2)[0].T
                attn_list.append(stretched(1 - kl_temp, softmax_temp))
            kl_temp_weight[:, 1:, 1:] = torch.stack(attn_list).sum(0) / len(attn_list)
            kl_temp_weight[:, :, 0] = 0.0
            # the map ends
            x = self.net.visual.intermediate_feat_before_last
            for blk in self.net.visual.transformer.resblocks[-1:]:
                x = x + self.net.visual.custom_dual_attn(blk.attn, blk.ln_1(x), weight=kl_temp_weight, csa=True)
                x = x + blk.mlp(blk.ln_2(x))
            self.net.visual.intermediate_feat_after_last = x
            x = self.net.visual.ln_post(x.permute(1, 0, 2)) @ self.net.visual.proj
            logits = nn.functional.normalize(x, dim=-1)[:, 1:] @ self.query_features.T
            logits = logits.permute(0, 2, 1).reshape(-1, logits.shape[-1], w, h)
        probability = softmax_temp(logits * 50).squeeze()
        entropy = -(probability * torch.log2(probability)).sum(0)
        self.prob_thd = 0.5 * 2.5 / ((entropy.min() + entropy.max()) / 2)
        size = img.shape[-2:] if logit_size is None else logit_size
        return nn.functional.interpolate(logits, size=size, mode="bilinear")

    def predict(self, img):
        """[1, 3, H, W] -> labels [H, W] of the classes; a pixel that is too improbable is class 0."""
        words = (self.forward_feature(img)[0] * self.logit_scale).softmax(0)
        classes = torch.stack([words[self.query_idx == i].amax(0) for i in range(int(self.query_idx.max()) + 1)])
        most, labels = classes.max(0)
        labels[most < self.prob_thd] = 0
        return labels


def divergence(p):
    """Jensen-Shannon, with the released code's 1e-8 inside each logarithm: [C, n] -> [n, n]."""
    first, second = p[:, :, None], p[:, None]
    middle = ((first + second) * 0.5 + 1e-8).log()
    left = (first * ((first + 1e-8).log() - middle)).sum(0)
    return 0.5 * (left + (second * ((second + 1e-8).log() - middle)).sum(0))


def stretched(agreement, softmax):
    """Row min-max, softmax at 0.1, min-max."""
    return minmax(softmax(minmax(agreement) / 0.1))


def minmax(rows):
    low, high = rows.amin(-1, keepdim=True), rows.amax(-1, keepdim=True)
    return (rows - low) / (high - low + 1e-8)
