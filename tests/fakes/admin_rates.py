"""The part of the forgetful admin API that keeps exchange rates."""

from typing import Any

from bursar.v1 import exchange_rates_pb2 as pb
from bursar.v1 import exchange_rates_pb2_grpc


class ExchangeRates(exchange_rates_pb2_grpc.ExchangeRateServiceServicer):
    """Keeps what it is told, and lists all of it."""

    def __init__(self, requests: list[Any]) -> None:
        self._requests = requests
        self._rates: list[pb.ExchangeRate] = []

    async def SetExchangeRate(self, request: Any, context: Any) -> Any:
        self._requests.append(request)
        return self._keep(request.organization, request.exchange_rate)

    async def EndExchangeRate(self, request: Any, context: Any) -> Any:
        self._requests.append(request)
        ended = pb.ExchangeRate(
            base_currency=request.base_currency, quote_currency=request.quote_currency
        )
        return self._keep(request.organization, ended)

    async def ListExchangeRates(self, request: Any, context: Any) -> Any:
        self._requests.append(request)
        return pb.ListExchangeRatesResponse(exchange_rates=self._rates)

    async def ImportExchangeRates(self, request: Any, context: Any) -> Any:
        self._requests.append(request)
        known = {(r.quote_currency, r.effective_time.seconds) for r in self._rates}
        answer = pb.ImportExchangeRatesResponse()
        for rate in request.exchange_rates:
            if (rate.quote_currency, rate.effective_time.seconds) in known:
                answer.unchanged_count += 1
                continue
            answer.changed_count += 1
            answer.changes.add(exchange_rate=rate, previous_rate="1/0.8")
            if not request.dry_run:
                self._keep(request.organization, rate)
        return answer

    def _keep(self, organization: str, rate: pb.ExchangeRate) -> pb.ExchangeRate:
        rate.organization = organization
        rate.name = f"exchangeRates/{len(self._rates) + 1}"
        rate.record_time.seconds = 1_790_000_000
        self._rates.append(rate)
        return rate
