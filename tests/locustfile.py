"""Load on `/v1/images/edits`, for locust, which is no part of the tests' environment.

Start `ssd1b serve`, then run `pip install locust` and
`locust -f tests/locustfile.py --headless --users 16 --run-time 60s --host http://127.0.0.1:7860`.
"""

import random
from pathlib import Path

from locust import HttpUser, task

DOODLE = Path(__file__).parents[1] / "ssd1b_jax" / "embedded" / "doodles" / "apple.png"
STEPS = (4, 8, 16, 50)


class Caller(HttpUser):
    """Asks for its next picture as soon as it has one."""

    @task
    def edit(self):
        steps = random.choice(STEPS)
        form = dict(prompt="a red apple", strength="1.0", steps=str(steps), seed=str(random.getrandbits(32)))
        with self.client.post(
            "/v1/images/edits",
            data=form,
            files={"image": ("apple.png", DOODLE.read_bytes(), "image/png")},
            name=f"/v1/images/edits, {steps} steps",
            catch_response=True,
        ) as answer:
            if answer.status_code == 200 and not answer.json()["data"][0]["b64_json"]:
                answer.failure("no picture")
