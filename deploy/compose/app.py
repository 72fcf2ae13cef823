"""An app behind the sidecar: what it sends is what it would send to the provider itself."""

import json
import os
import urllib.error
import urllib.request

request = urllib.request.Request(
    f"{os.environ['OPENAI_BASE_URL']}/chat/completions",
    json.dumps(
        {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "Say hello."}]}
    ).encode(),
    {
        "authorization": f"Bearer {os.environ['OPENAI_API_KEY']}",
        "content-type": "application/json",
    },
)
try:
    with urllib.request.urlopen(request, timeout=60) as answer:
        print(json.load(answer)["choices"][0]["message"]["content"])
        print("cost:", answer.headers["x-bursar-cost"], answer.headers["x-bursar-currency"])
        print("left:", answer.headers["x-bursar-budget-remaining"])
except urllib.error.HTTPError as error:
    # 402: a budget is exhausted; the body says which, and when its window ends.
    print(error.code, error.read().decode())
