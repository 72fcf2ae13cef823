-- name: raise_overlay_version
-- First in a transaction: changes of one organization's prices and rates wait for each other, and
-- are recorded in the order of their ids. Rates travel in the overlay of prices.
UPDATE organizations SET price_overlay_version = price_overlay_version + 1
WHERE id = $1
RETURNING price_overlay_version;

-- name: insert_rates
INSERT INTO exchange_rates (
    organization_id, base_currency, quote_currency, rate, effective_at, source, actor
)
SELECT $1, r.base, r.quote, r.rate, r.effective_at, $6, $7
FROM unnest($2::text[], $3::text[], $4::numeric[], $5::timestamptz[])
     WITH ORDINALITY AS r (base, quote, rate, effective_at, place)
ORDER BY r.place
RETURNING id;

-- name: rate_by_id
SELECT r.id, o.slug AS organization_slug, r.base_currency AS base, r.quote_currency AS quote,
       r.rate, r.effective_at, r.source, r.created_at AS recorded_at
FROM exchange_rates AS r
JOIN organizations AS o ON o.id = r.organization_id
WHERE r.organization_id = $1 AND r.id = $2;

-- name: scheduled_count
SELECT count(*) FROM exchange_rates WHERE organization_id = $1 AND effective_at > $2;

-- name: rates_since
-- Of each pair, in each direction, the rate that held at $2 and those that begin later, in the
-- order in which they were recorded. The pairs are found by leaps from one to the next: years of
-- daily rates are not read.
WITH RECURSIVE given AS (
    (SELECT base_currency, quote_currency FROM exchange_rates
     WHERE organization_id = $1
     ORDER BY base_currency, quote_currency LIMIT 1)
    UNION ALL
    SELECT n.base_currency, n.quote_currency
    FROM given AS g
    CROSS JOIN LATERAL (
        SELECT r.base_currency, r.quote_currency FROM exchange_rates AS r
        WHERE r.organization_id = $1
          AND (r.base_currency, r.quote_currency) > (g.base_currency, g.quote_currency)
        ORDER BY r.base_currency, r.quote_currency LIMIT 1
    ) AS n
)
SELECT k.id, o.slug AS organization_slug, g.base_currency AS base, g.quote_currency AS quote,
       k.rate, k.effective_at, k.source, k.created_at AS recorded_at
FROM given AS g
CROSS JOIN LATERAL (
    (SELECT r.id, r.rate, r.effective_at, r.source, r.created_at FROM exchange_rates AS r
     WHERE r.organization_id = $1 AND r.base_currency = g.base_currency
       AND r.quote_currency = g.quote_currency AND r.effective_at <= $2
     ORDER BY r.effective_at DESC, r.id DESC LIMIT 1)
    UNION ALL
    (SELECT r.id, r.rate, r.effective_at, r.source, r.created_at FROM exchange_rates AS r
     WHERE r.organization_id = $1 AND r.base_currency = g.base_currency
       AND r.quote_currency = g.quote_currency AND r.effective_at > $2)
) AS k
JOIN organizations AS o ON o.id = $1
ORDER BY k.id;

-- name: recorded_before
-- For each pair and instant what was recorded, in either direction, at that instant or last before.
SELECT a.place, k.base_currency AS base, k.quote_currency AS quote, k.rate, k.effective_at
FROM unnest($2::text[], $3::text[], $4::timestamptz[])
     WITH ORDINALITY AS a (base, quote, at, place)
CROSS JOIN LATERAL (
    SELECT * FROM (
        (SELECT r.id, r.base_currency, r.quote_currency, r.rate, r.effective_at
         FROM exchange_rates AS r
         WHERE r.organization_id = $1 AND r.base_currency = a.base
           AND r.quote_currency = a.quote AND r.effective_at <= a.at
         ORDER BY r.effective_at DESC, r.id DESC LIMIT 1)
        UNION ALL
        (SELECT r.id, r.base_currency, r.quote_currency, r.rate, r.effective_at
         FROM exchange_rates AS r
         WHERE r.organization_id = $1 AND r.base_currency = a.quote
           AND r.quote_currency = a.base AND r.effective_at <= a.at
         ORDER BY r.effective_at DESC, r.id DESC LIMIT 1)
    ) AS both_ways
    ORDER BY effective_at DESC, id DESC LIMIT 1
) AS k
ORDER BY a.place;

-- name: rate_history
-- The newest effective first, behind a place in that order.
SELECT r.id, o.slug AS organization_slug, r.base_currency AS base, r.quote_currency AS quote,
       r.rate, r.effective_at, r.source, r.created_at AS recorded_at
FROM exchange_rates AS r
JOIN organizations AS o ON o.id = r.organization_id
WHERE r.organization_id IN ($1, $2)
  AND ($3 = '' OR r.base_currency = $3 OR r.quote_currency = $3)
  AND ($4::timestamptz IS NULL OR (r.effective_at, r.id) < ($4, $5))
ORDER BY r.effective_at DESC, r.id DESC
LIMIT $6;
