-- name: lock_publishing
-- One process at a time registers the snapshot; the number is this purpose's own.
SELECT pg_advisory_xact_lock(4207001);

-- name: snapshot_in_force
SELECT EXISTS (
    SELECT FROM price_lists AS l
    JOIN prices AS p ON p.organization_id = l.organization_id AND p.price_list_id = l.id
    WHERE l.organization_id = $1 AND l.layer = 'builtin' AND l.version = $2
      AND p.expires_at IS NULL
);

-- name: end_built_in_prices
UPDATE prices SET expires_at = $2
WHERE organization_id = $1 AND layer = 'builtin' AND expires_at IS NULL;

-- name: insert_price_list
INSERT INTO price_lists (organization_id, layer, version, source)
VALUES ($1, $2, $3, $4)
ON CONFLICT (organization_id, layer, version) DO UPDATE SET source = excluded.source
RETURNING id;

-- name: time_of_change
-- Not the transaction's beginning: it may have waited for another change since.
SELECT clock_timestamp();

-- name: raise_overlay_version
-- First in a transaction: changes of one organization's prices wait for each other.
UPDATE organizations SET price_overlay_version = price_overlay_version + 1
WHERE id = $1
RETURNING price_overlay_version;

-- name: overlay_version
-- Of what an organization sees, the platform's prices and its own: the sum grows with either.
SELECT sum(price_overlay_version)::bigint FROM organizations WHERE id IN ($1, $2);

-- name: overlay
-- The later wins: the platform's first, then the organization's.
SELECT price::text AS price, effective_at FROM prices
WHERE organization_id IN ($1, $2) AND layer = 'custom' AND expires_at IS NULL
ORDER BY organization_id <> $2, provider, model;

-- name: end_price
UPDATE prices SET expires_at = $4
WHERE organization_id = $1 AND layer = 'custom' AND provider = $2 AND model = $3
  AND expires_at IS NULL
RETURNING id;

-- name: insert_price
INSERT INTO prices (
    organization_id, price_list_id, layer, provider, model, price, effective_at
)
VALUES ($1, $2, 'custom', $3, $4, $5, $6)
RETURNING id;

-- name: price_by_id
SELECT price::text AS price, layer, effective_at, expires_at FROM prices
WHERE organization_id = $1 AND id = $2;

-- name: price_page
-- What is in force, one row a model: the custom price, else the imported, else the built-in one; of
-- each the organization's own, else the platform's.
SELECT provider, model, layer, price::text AS price, effective_at, expires_at
FROM (
    SELECT DISTINCT ON (provider, model)
        provider, model, layer, price, effective_at, expires_at
    FROM prices
    WHERE organization_id IN ($1, $2) AND expires_at IS NULL
      AND (layer = 'custom' OR ($7 = false AND (layer = 'imported' OR organization_id = $2)))
      AND (provider, model) > ($3, $4)
      AND ($5 = '' OR provider = $5)
      AND ($6 = '' OR model LIKE $6)
    ORDER BY provider, model, array_position(ARRAY['custom','imported','builtin'], layer),
             organization_id = $1 DESC
) AS in_force
ORDER BY provider, model
LIMIT $8;

-- name: price_history
SELECT layer, price::text AS price, effective_at, expires_at FROM prices
WHERE organization_id IN ($1, $2) AND provider = $3 AND model = $4
  AND (layer IN ('custom','imported') OR organization_id = $2)
ORDER BY effective_at DESC, id DESC
LIMIT $5;

-- name: price_lists
-- The newest version of each layer that an organization sees, the weakest first.
SELECT l.layer, l.version, l.source, l.created_at, o.slug AS organization_slug,
       (SELECT count(*) FROM prices AS p
        WHERE p.organization_id = l.organization_id AND p.layer = l.layer
          AND p.expires_at IS NULL) AS price_count
FROM (
    SELECT DISTINCT ON (organization_id, layer) *
    FROM price_lists
    WHERE organization_id IN ($1, $2)
    ORDER BY organization_id, layer, created_at DESC, id DESC
) AS l
JOIN organizations AS o ON o.id = l.organization_id
ORDER BY array_position(ARRAY['builtin','imported','custom'], l.layer), l.organization_id <> $2;
