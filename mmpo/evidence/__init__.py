"""Is an object in a picture? Several sources say present, absent or uncertain; none of them needs annotations.

findings   a source's raw number z for a class in a picture, higher for present; or it abstains and says why
cuts       where z becomes present, absent or uncertain: fitted on control pictures, or found without labels
opinions   a source's verdict with its confidence
judged     the opinions of all sources combined
"""
