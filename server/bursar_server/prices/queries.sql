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
-- What holds or will. The later wins: the platform's first, then the organization's. One that holds
-- has no beginning here: whoever is told it, holds it, whatever its clock says.
SELECT jsonb_strip_nulls(price || jsonb_build_object(
           'effective_at', CASE WHEN effective_at > clock_timestamp() THEN effective_at END,
           'expires_at', expires_at))::text AS price
FROM prices
WHERE organization_id IN ($1, $2) AND layer = 'custom' AND superseded_at IS NULL
  AND (expires_at IS NULL OR expires_at > clock_timestamp())
ORDER BY organization_id <> $2, provider, model, effective_at;

-- name: prices_through_time
-- All that held at some time between $3 and $4, as it is known now: the weakest layer first, of each
-- the platform's first. The built-in prices in force are those of the program, and not told. A
-- published list may itself say when its prices hold: they do from its import on.
SELECT jsonb_strip_nulls(price || jsonb_build_object(
           'effective_at', from_at, 'expires_at', until_at))::text AS price
FROM prices
CROSS JOIN LATERAL (
    SELECT greatest(effective_at, (price ->> 'effective_at')::timestamptz) AS from_at,
           least(expires_at, (price ->> 'expires_at')::timestamptz) AS until_at
) AS held
WHERE organization_id IN ($1, $2) AND superseded_at IS NULL
  AND from_at <= $4 AND (until_at IS NULL OR until_at > greatest($3, from_at))
  AND (layer <> 'builtin' OR expires_at IS NOT NULL)
ORDER BY array_position(ARRAY['builtin','imported','custom'], layer),
         organization_id <> $2, from_at, id;

-- name: next_beginning
-- When the next price of a model begins that was set for a time after $4.
SELECT min(effective_at) FROM prices
WHERE organization_id = $1 AND layer = 'custom' AND provider = $2 AND model = $3
  AND superseded_at IS NULL AND effective_at > $4;

-- name: supersede_prices
-- What was believed of a model between $4 and $5 (null: for good) is no longer.
UPDATE prices SET superseded_at = $6
WHERE organization_id = $1 AND layer = 'custom' AND provider = $2 AND model = $3
  AND superseded_at IS NULL
  AND (expires_at IS NULL OR expires_at > $4) AND ($5::timestamptz IS NULL OR effective_at < $5)
RETURNING id, price_list_id, price::text AS price, effective_at, expires_at;

-- name: insert_price
INSERT INTO prices (
    organization_id, price_list_id, layer, provider, model, price, effective_at, expires_at,
    created_at
)
VALUES ($1, $2, 'custom', $3, $4, $5, $6, $7, $8)
RETURNING id;

-- name: price_by_id
SELECT p.price::text AS price, p.layer, p.effective_at, p.expires_at, p.created_at,
       p.superseded_at, l.source, o.slug AS organization_slug
FROM prices AS p
JOIN price_lists AS l ON l.organization_id = p.organization_id AND l.id = p.price_list_id
JOIN organizations AS o ON o.id = p.organization_id
WHERE p.organization_id = $1 AND p.id = $2;

-- name: price_page
-- What is in force, one row a model: the custom price, else the imported, else the built-in one; of
-- each the organization's own, else the platform's. A published list may itself say when its prices
-- hold: they do from its import on.
SELECT p.price::text AS price, p.layer, p.from_at AS effective_at, p.until_at AS expires_at,
       p.created_at, p.superseded_at, l.source, o.slug AS organization_slug
FROM (
    SELECT DISTINCT ON (provider, model) *
    FROM prices
    CROSS JOIN LATERAL (
        SELECT greatest(effective_at, (price ->> 'effective_at')::timestamptz) AS from_at,
               least(expires_at, (price ->> 'expires_at')::timestamptz) AS until_at
    ) AS held
    WHERE organization_id IN ($1, $2) AND superseded_at IS NULL
      AND from_at <= coalesce($9, clock_timestamp())
      AND (until_at IS NULL OR until_at > coalesce($9, clock_timestamp()))
      AND (layer = 'custom' OR ($7 = false AND (layer = 'imported' OR organization_id = $2)))
      AND (provider, model) > ($3, $4)
      AND ($5 = '' OR provider = $5)
      AND ($6 = '' OR model LIKE $6)
    ORDER BY provider, model, array_position(ARRAY['custom','imported','builtin'], layer),
             organization_id = $1 DESC, from_at DESC
) AS p
JOIN price_lists AS l ON l.organization_id = p.organization_id AND l.id = p.price_list_id
JOIN organizations AS o ON o.id = p.organization_id
ORDER BY p.provider, p.model
LIMIT $8;

-- name: price_history
SELECT p.price::text AS price, p.layer, held.from_at AS effective_at,
       held.until_at AS expires_at, p.created_at, p.superseded_at, l.source,
       o.slug AS organization_slug
FROM prices AS p
JOIN price_lists AS l ON l.organization_id = p.organization_id AND l.id = p.price_list_id
JOIN organizations AS o ON o.id = p.organization_id
CROSS JOIN LATERAL (
    SELECT greatest(p.effective_at, (p.price ->> 'effective_at')::timestamptz) AS from_at,
           least(p.expires_at, (p.price ->> 'expires_at')::timestamptz) AS until_at
) AS held
WHERE p.organization_id IN ($1, $2) AND p.provider = $3 AND p.model = $4
  AND (p.layer IN ('custom','imported') OR p.organization_id = $2)
  AND ($6 OR p.superseded_at IS NULL)
ORDER BY held.from_at DESC, p.created_at DESC, p.id DESC
LIMIT $5;

-- name: price_lists
-- The newest version of each layer that an organization sees, the weakest first.
SELECT l.layer, l.version, l.source, l.created_at, o.slug AS organization_slug,
       (SELECT count(*) FROM prices AS p
        WHERE p.organization_id = l.organization_id AND p.layer = l.layer
          AND p.superseded_at IS NULL
          AND (p.expires_at IS NULL OR p.expires_at > clock_timestamp())) AS price_count
FROM (
    SELECT DISTINCT ON (organization_id, layer) *
    FROM price_lists
    WHERE organization_id IN ($1, $2)
    ORDER BY organization_id, layer, created_at DESC, id DESC
) AS l
JOIN organizations AS o ON o.id = l.organization_id
ORDER BY array_position(ARRAY['builtin','imported','custom'], l.layer), l.organization_id <> $2;
