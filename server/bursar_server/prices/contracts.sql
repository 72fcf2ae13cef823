-- name: contracts
-- The platform's first, then the organization's, by number. $3: also those that are over; $4: from
-- when on they hold or will, null for now.
SELECT c.id, c.organization_id, c.number, c.provider, c.model, c.discount, c.margin, c.call_fee,
       c.currency, c.effective_at, c.expires_at, c.reason, c.created_at,
       o.slug AS organization_slug, c.organization_id <> $2 AS own,
       c.effective_at <= clock_timestamp() AS begun
FROM price_contracts AS c
JOIN organizations AS o ON o.id = c.organization_id
WHERE c.organization_id IN ($1, $2) AND c.superseded_at IS NULL
  AND ($3 OR c.expires_at IS NULL OR c.expires_at > coalesce($4, clock_timestamp()))
ORDER BY c.organization_id <> $2, c.number, c.effective_at;

-- name: contracts_of_number
SELECT c.id, c.organization_id, c.number, c.provider, c.model, c.discount, c.margin, c.call_fee,
       c.currency, c.effective_at, c.expires_at, c.reason, c.created_at,
       o.slug AS organization_slug, c.organization_id <> $3 AS own,
       c.effective_at <= clock_timestamp() AS begun
FROM price_contracts AS c
JOIN organizations AS o ON o.id = c.organization_id
WHERE c.organization_id = $1 AND c.number = $2
ORDER BY c.created_at, c.effective_at
LIMIT 1;

-- name: count_contracts
SELECT count(*) FROM price_contracts
WHERE organization_id = $1 AND superseded_at IS NULL
  AND (expires_at IS NULL OR expires_at > clock_timestamp());

-- name: insert_contract
INSERT INTO price_contracts (
    organization_id, number, provider, model, discount, margin, call_fee, currency, effective_at,
    expires_at, reason, actor, created_at
)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13)
RETURNING id;

-- name: supersede_contract
UPDATE price_contracts SET superseded_at = $4
WHERE organization_id = $1 AND number = $2 AND superseded_at IS NULL
  AND (expires_at IS NULL OR expires_at > $3)
RETURNING id, effective_at, expires_at;

-- name: repeat_contract
-- What is left of it.
INSERT INTO price_contracts (
    organization_id, number, provider, model, discount, margin, call_fee, currency, effective_at,
    expires_at, reason, actor, created_at
)
SELECT organization_id, number, provider, model, discount, margin, call_fee, currency, $3, $4,
       reason, actor, $5
FROM price_contracts WHERE organization_id = $1 AND id = $2;
