"""Who may serve, and what an ad is worth beside its prediction: attributes of ads, and what a request says of them.

`AdAttributes` are those of ads on the host, `DeviceAttributes` the same on the device, `Conditions` the requests'.
"""
