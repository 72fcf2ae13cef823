"""The first tables, the built-in platform organization, and the guard of what is never changed."""

from alembic import op

revision = "0001"
down_revision: str | None = None
branch_labels: str | None = None
depends_on: str | None = None

TABLES = (
    "CREATE SEQUENCE ids START WITH 1000",
    "CREATE SEQUENCE session_epochs",
    """
    CREATE TABLE admin_keys (
        id bigint DEFAULT nextval('ids') NOT NULL,
        secret_hash bytea NOT NULL,
        secret_prefix text NOT NULL,
        created_at timestamptz DEFAULT now() NOT NULL,
        CONSTRAINT admin_keys_pkey PRIMARY KEY (id),
        CONSTRAINT admin_keys_secret_hash_key UNIQUE (secret_hash)
    )
    """,
    """
    CREATE TABLE budget_versions (
        organization_id bigint NOT NULL,
        budget_id bigint NOT NULL,
        version bigint NOT NULL,
        display_name text NOT NULL,
        limit_nanos bigint NOT NULL,
        disabled boolean NOT NULL,
        actor text NOT NULL,
        created_at timestamptz DEFAULT now() NOT NULL,
        CONSTRAINT budget_versions_pkey PRIMARY KEY (organization_id, budget_id, version)
    )
    """,
    """
    CREATE TABLE draw_sets (
        organization_id bigint NOT NULL,
        id bigint DEFAULT nextval('ids') NOT NULL,
        budget_window_ids bigint[] NOT NULL,
        CONSTRAINT draw_sets_pkey PRIMARY KEY (organization_id, id),
        CONSTRAINT draw_sets_organization_id_budget_window_ids_key
            UNIQUE (organization_id, budget_window_ids)
    )
    """,
    """
    CREATE TABLE entries (
        organization_id bigint NOT NULL,
        session_epoch bigint NOT NULL,
        n bigint NOT NULL,
        k integer NOT NULL,
        kind text NOT NULL,
        debit_account text NOT NULL,
        credit_account text NOT NULL,
        amount_nanos bigint NOT NULL,
        currency text NOT NULL,
        reserved_nanos bigint NOT NULL,
        overrun_nanos bigint DEFAULT 0 NOT NULL,
        draw_set_id bigint NOT NULL,
        key_id bigint,
        team_id bigint,
        project_id bigint,
        user_id bigint,
        customer text NOT NULL,
        app text NOT NULL,
        run text NOT NULL,
        tags text[] NOT NULL,
        provider text NOT NULL,
        model text NOT NULL,
        requested_model text NOT NULL,
        price_version text NOT NULL,
        input_llm_tokens bigint NOT NULL,
        cached_input_llm_tokens bigint NOT NULL,
        cache_write_5m_llm_tokens bigint NOT NULL,
        cache_write_1h_llm_tokens bigint NOT NULL,
        output_llm_tokens bigint NOT NULL,
        reasoning_llm_tokens bigint NOT NULL,
        further_usage jsonb,
        estimate_reason text NOT NULL,
        provider_request_id text NOT NULL,
        http_status smallint NOT NULL,
        stream boolean NOT NULL,
        admitted_at timestamptz NOT NULL,
        finished_at timestamptz NOT NULL,
        posted_at timestamptz NOT NULL,
        CONSTRAINT entries_pkey PRIMARY KEY (organization_id, session_epoch, n, k),
        CONSTRAINT entries_kind_check CHECK (kind IN ('final','provisional','released')),
        CONSTRAINT entries_amount_check CHECK (k > 0 OR amount_nanos >= 0)
    )
    """,
    "CREATE INDEX entries_admitted_idx ON entries (organization_id, admitted_at)",
    "CREATE INDEX entries_key_idx ON entries (organization_id, key_id)",
    "CREATE INDEX entries_posted_idx ON entries (organization_id, posted_at)",
    """
    CREATE TABLE events (
        organization_id bigint NOT NULL,
        id bigint DEFAULT nextval('ids') NOT NULL,
        kind text NOT NULL,
        budget_id bigint,
        budget_window_id bigint,
        summary text NOT NULL,
        amount_nanos bigint NOT NULL,
        currency text NOT NULL,
        created_at timestamptz DEFAULT now() NOT NULL,
        CONSTRAINT events_pkey PRIMARY KEY (organization_id, id),
        CONSTRAINT events_kind_check
            CHECK (kind IN ('soft_limit_crossed','overrun','frame_quarantined'))
    )
    """,
    """
    CREATE TABLE quarantined_frames (
        organization_id bigint NOT NULL,
        id bigint DEFAULT nextval('ids') NOT NULL,
        session_epoch bigint NOT NULL,
        seq bigint NOT NULL,
        frame bytea NOT NULL,
        fault text NOT NULL,
        created_at timestamptz DEFAULT now() NOT NULL,
        CONSTRAINT quarantined_frames_pkey PRIMARY KEY (organization_id, id)
    )
    """,
    """
    CREATE TABLE requests (
        organization_id bigint NOT NULL,
        request_id uuid NOT NULL,
        method text NOT NULL,
        content_hash bytea NOT NULL,
        resource text NOT NULL,
        created_at timestamptz DEFAULT now() NOT NULL,
        CONSTRAINT requests_pkey PRIMARY KEY (organization_id, request_id)
    )
    """,
    """
    CREATE TABLE sessions (
        organization_id bigint NOT NULL,
        session_epoch bigint NOT NULL,
        sidecar_organization_id bigint NOT NULL,
        sidecar_id bigint NOT NULL,
        boot_id text NOT NULL,
        state text DEFAULT 'open' NOT NULL,
        applied_seq bigint DEFAULT 0 NOT NULL,
        settled_count bigint DEFAULT 0 NOT NULL,
        highest_settled_n bigint DEFAULT 0 NOT NULL,
        last_n bigint,
        journal text,
        created_at timestamptz DEFAULT now() NOT NULL,
        last_seen_at timestamptz DEFAULT now() NOT NULL,
        CONSTRAINT sessions_pkey PRIMARY KEY (organization_id, session_epoch),
        CONSTRAINT sessions_organization_id_sidecar_id_boot_id_key
            UNIQUE (organization_id, sidecar_id, boot_id),
        CONSTRAINT sessions_state_check CHECK (state IN ('open','fenced','closed'))
    )
    """,
    """
    CREATE TABLE shards (
        id integer NOT NULL,
        owner_epoch bigint DEFAULT 0 NOT NULL,
        owner text DEFAULT '' NOT NULL,
        updated_at timestamptz DEFAULT now() NOT NULL,
        CONSTRAINT shards_pkey PRIMARY KEY (id)
    )
    """,
    """
    CREATE TABLE organizations (
        id bigint DEFAULT nextval('ids') NOT NULL,
        slug text NOT NULL,
        display_name text NOT NULL,
        currency text NOT NULL,
        shard_id integer DEFAULT 0 NOT NULL,
        disabled boolean DEFAULT false NOT NULL,
        policy_version bigint DEFAULT 1 NOT NULL,
        price_overlay_version bigint DEFAULT 0 NOT NULL,
        created_at timestamptz DEFAULT now() NOT NULL,
        updated_at timestamptz DEFAULT now() NOT NULL,
        CONSTRAINT organizations_pkey PRIMARY KEY (id),
        CONSTRAINT organizations_currency_check CHECK (currency ~ '^[A-Z]{3}$'),
        CONSTRAINT organizations_shard_id_fkey FOREIGN KEY(shard_id) REFERENCES shards (id),
        CONSTRAINT organizations_slug_key UNIQUE (slug)
    )
    """,
    """
    CREATE TABLE budgets (
        organization_id bigint NOT NULL,
        id bigint DEFAULT nextval('ids') NOT NULL,
        slug text NOT NULL,
        display_name text NOT NULL,
        scope_kind text NOT NULL,
        scope_id bigint NOT NULL,
        models text[] DEFAULT '{}'::text[] NOT NULL,
        providers text[] DEFAULT '{}'::text[] NOT NULL,
        limit_nanos bigint NOT NULL,
        window_kind text NOT NULL,
        window_unit text,
        window_count integer,
        window_anchor integer DEFAULT 0 NOT NULL,
        window_start_at timestamptz,
        time_zone text DEFAULT 'UTC' NOT NULL,
        enforcement text NOT NULL,
        disabled boolean DEFAULT false NOT NULL,
        version bigint DEFAULT 1 NOT NULL,
        created_at timestamptz DEFAULT now() NOT NULL,
        updated_at timestamptz DEFAULT now() NOT NULL,
        CONSTRAINT budgets_pkey PRIMARY KEY (organization_id, id),
        CONSTRAINT budgets_organization_id_fkey
            FOREIGN KEY(organization_id) REFERENCES organizations (id),
        CONSTRAINT budgets_organization_id_slug_key UNIQUE (organization_id, slug),
        CONSTRAINT budgets_limit_check CHECK (limit_nanos >= 0),
        CONSTRAINT budgets_scope_kind_check
            CHECK (scope_kind IN ('platform','organization','team','project','user','key')),
        CONSTRAINT budgets_window_kind_check
            CHECK (window_kind IN ('calendar','every','from_first_call','lifetime')),
        CONSTRAINT budgets_enforcement_check CHECK (enforcement IN ('hard','soft'))
    )
    """,
    "CREATE INDEX budgets_scope_idx ON budgets (organization_id, scope_kind, scope_id)",
    """
    CREATE TABLE keys (
        organization_id bigint NOT NULL,
        id bigint DEFAULT nextval('ids') NOT NULL,
        slug text NOT NULL,
        display_name text NOT NULL,
        team_id bigint,
        project_id bigint,
        user_id bigint,
        secret_hash bytea NOT NULL,
        secret_prefix text NOT NULL,
        allowed_models text[] DEFAULT '{}'::text[] NOT NULL,
        tags text[] DEFAULT '{}'::text[] NOT NULL,
        expires_at timestamptz,
        revoked_at timestamptz,
        metadata jsonb DEFAULT '{}'::jsonb NOT NULL,
        disabled boolean DEFAULT false NOT NULL,
        created_at timestamptz DEFAULT now() NOT NULL,
        updated_at timestamptz DEFAULT now() NOT NULL,
        CONSTRAINT keys_pkey PRIMARY KEY (organization_id, id),
        CONSTRAINT keys_organization_id_fkey
            FOREIGN KEY(organization_id) REFERENCES organizations (id),
        CONSTRAINT keys_organization_id_slug_key UNIQUE (organization_id, slug)
    )
    """,
    "CREATE UNIQUE INDEX keys_secret_hash_idx ON keys (secret_hash)",
    """
    CREATE TABLE price_lists (
        organization_id bigint NOT NULL,
        id bigint DEFAULT nextval('ids') NOT NULL,
        layer text NOT NULL,
        version text NOT NULL,
        source text NOT NULL,
        created_at timestamptz DEFAULT now() NOT NULL,
        CONSTRAINT price_lists_pkey PRIMARY KEY (organization_id, id),
        CONSTRAINT price_lists_organization_id_fkey
            FOREIGN KEY(organization_id) REFERENCES organizations (id),
        CONSTRAINT price_lists_organization_id_layer_version_key
            UNIQUE (organization_id, layer, version),
        CONSTRAINT price_lists_layer_check CHECK (layer IN ('builtin','custom'))
    )
    """,
    """
    CREATE TABLE projects (
        organization_id bigint NOT NULL,
        id bigint DEFAULT nextval('ids') NOT NULL,
        slug text NOT NULL,
        display_name text NOT NULL,
        team_id bigint,
        metadata jsonb DEFAULT '{}'::jsonb NOT NULL,
        disabled boolean DEFAULT false NOT NULL,
        created_at timestamptz DEFAULT now() NOT NULL,
        updated_at timestamptz DEFAULT now() NOT NULL,
        CONSTRAINT projects_pkey PRIMARY KEY (organization_id, id),
        CONSTRAINT projects_organization_id_fkey
            FOREIGN KEY(organization_id) REFERENCES organizations (id),
        CONSTRAINT projects_organization_id_slug_key UNIQUE (organization_id, slug)
    )
    """,
    """
    CREATE TABLE sidecars (
        organization_id bigint NOT NULL,
        id bigint DEFAULT nextval('ids') NOT NULL,
        slug text NOT NULL,
        secret_hash bytea NOT NULL,
        secret_prefix text NOT NULL,
        disabled boolean DEFAULT false NOT NULL,
        build text DEFAULT '' NOT NULL,
        last_seen_at timestamptz,
        created_at timestamptz DEFAULT now() NOT NULL,
        CONSTRAINT sidecars_pkey PRIMARY KEY (organization_id, id),
        CONSTRAINT sidecars_organization_id_fkey
            FOREIGN KEY(organization_id) REFERENCES organizations (id),
        CONSTRAINT sidecars_organization_id_slug_key UNIQUE (organization_id, slug)
    )
    """,
    "CREATE UNIQUE INDEX sidecars_secret_hash_idx ON sidecars (secret_hash)",
    """
    CREATE TABLE teams (
        organization_id bigint NOT NULL,
        id bigint DEFAULT nextval('ids') NOT NULL,
        slug text NOT NULL,
        display_name text NOT NULL,
        metadata jsonb DEFAULT '{}'::jsonb NOT NULL,
        disabled boolean DEFAULT false NOT NULL,
        created_at timestamptz DEFAULT now() NOT NULL,
        updated_at timestamptz DEFAULT now() NOT NULL,
        CONSTRAINT teams_pkey PRIMARY KEY (organization_id, id),
        CONSTRAINT teams_organization_id_fkey
            FOREIGN KEY(organization_id) REFERENCES organizations (id),
        CONSTRAINT teams_organization_id_slug_key UNIQUE (organization_id, slug)
    )
    """,
    """
    CREATE TABLE users (
        organization_id bigint NOT NULL,
        id bigint DEFAULT nextval('ids') NOT NULL,
        slug text NOT NULL,
        display_name text NOT NULL,
        email text DEFAULT '' NOT NULL,
        metadata jsonb DEFAULT '{}'::jsonb NOT NULL,
        disabled boolean DEFAULT false NOT NULL,
        created_at timestamptz DEFAULT now() NOT NULL,
        updated_at timestamptz DEFAULT now() NOT NULL,
        CONSTRAINT users_pkey PRIMARY KEY (organization_id, id),
        CONSTRAINT users_organization_id_fkey
            FOREIGN KEY(organization_id) REFERENCES organizations (id),
        CONSTRAINT users_organization_id_slug_key UNIQUE (organization_id, slug)
    )
    """,
    """
    CREATE TABLE budget_windows (
        organization_id bigint NOT NULL,
        id bigint DEFAULT nextval('ids') NOT NULL,
        budget_id bigint NOT NULL,
        split_value text DEFAULT '' NOT NULL,
        start_at timestamptz NOT NULL,
        end_at timestamptz,
        limit_nanos bigint NOT NULL,
        budget_version bigint NOT NULL,
        ceiling_nanos bigint NOT NULL,
        settled_nanos bigint DEFAULT 0 NOT NULL,
        outstanding_nanos bigint DEFAULT 0 NOT NULL,
        in_doubt_nanos bigint DEFAULT 0 NOT NULL,
        overrun_nanos bigint DEFAULT 0 NOT NULL,
        hard boolean NOT NULL,
        created_at timestamptz DEFAULT now() NOT NULL,
        CONSTRAINT budget_windows_pkey PRIMARY KEY (organization_id, id),
        CONSTRAINT budget_windows_organization_id_budget_id_fkey
            FOREIGN KEY(organization_id, budget_id) REFERENCES budgets (organization_id, id),
        CONSTRAINT budget_windows_organization_id_budget_id_split_value_st_4be7
            UNIQUE (organization_id, budget_id, split_value, start_at),
        CONSTRAINT budget_windows_parts_check
            CHECK (outstanding_nanos >= 0 AND in_doubt_nanos >= 0 AND overrun_nanos >= 0),
        CONSTRAINT budget_windows_ceiling_check
            CHECK (NOT hard OR settled_nanos - overrun_nanos + outstanding_nanos + in_doubt_nanos
            <= ceiling_nanos)
    )
    """,
    """
    CREATE TABLE prices (
        organization_id bigint NOT NULL,
        id bigint DEFAULT nextval('ids') NOT NULL,
        price_list_id bigint NOT NULL,
        layer text NOT NULL,
        provider text NOT NULL,
        model text NOT NULL,
        price jsonb NOT NULL,
        effective_at timestamptz NOT NULL,
        expires_at timestamptz,
        created_at timestamptz DEFAULT now() NOT NULL,
        CONSTRAINT prices_pkey PRIMARY KEY (organization_id, id),
        CONSTRAINT prices_organization_id_price_list_id_fkey
            FOREIGN KEY(organization_id, price_list_id) REFERENCES price_lists (organization_id,
            id)
    )
    """,
    """
    CREATE INDEX prices_model_idx
        ON prices (organization_id, layer, provider, model, effective_at)
    """,
    """
    CREATE TABLE allowances (
        organization_id bigint NOT NULL,
        session_epoch bigint NOT NULL,
        budget_window_id bigint NOT NULL,
        granted_nanos bigint DEFAULT 0 NOT NULL,
        returned_nanos bigint DEFAULT 0 NOT NULL,
        settled_nanos bigint DEFAULT 0 NOT NULL,
        in_doubt_nanos bigint DEFAULT 0 NOT NULL,
        CONSTRAINT allowances_pkey PRIMARY KEY (organization_id, session_epoch, budget_window_id),
        CONSTRAINT allowances_totals_check
            CHECK (granted_nanos >= 0 AND returned_nanos >= 0 AND returned_nanos <= granted_nanos
            AND in_doubt_nanos >= 0),
        CONSTRAINT allowances_organization_id_session_epoch_fkey
            FOREIGN KEY(organization_id, session_epoch) REFERENCES sessions (organization_id,
            session_epoch),
        CONSTRAINT allowances_organization_id_budget_window_id_fkey
            FOREIGN KEY(organization_id, budget_window_id) REFERENCES budget_windows
            (organization_id, id)
    )
    """,
    "CREATE INDEX allowances_window_idx ON allowances (organization_id, budget_window_id)",
)

# The shard that every organization belongs to until there are several, and the organization that
# holds what concerns all of them (schema.PLATFORM_ORGANIZATION_ID).
ROWS = (
    "INSERT INTO shards (id) VALUES (0)",
    """
    INSERT INTO organizations (id, slug, display_name, currency)
    VALUES (1, 'platform', 'Platform', 'USD')
    """,
)

# Tables that are only ever appended to. A correction is a new row; whoever must remove a ledger
# (with its organization, by law) drops the trigger first and says so.
APPEND_ONLY = ("entries", "budget_versions")


def upgrade() -> None:
    """Make everything."""
    for statement in (*TABLES, *ROWS):
        op.execute(statement)
    op.execute(
        """
        CREATE FUNCTION refuse_change() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN
            RAISE EXCEPTION '% on % is refused: its rows are never changed', TG_OP, TG_TABLE_NAME
                USING ERRCODE = 'restrict_violation';
        END
        $$
        """
    )
    for table in APPEND_ONLY:
        op.execute(
            f"""
            CREATE TRIGGER {table}_are_append_only
            BEFORE UPDATE OR DELETE OR TRUNCATE ON {table}
            FOR EACH STATEMENT EXECUTE FUNCTION refuse_change()
            """
        )


def downgrade() -> None:
    """There is nothing before the first tables: start with an empty database instead."""
    raise RuntimeError("a ledger is not migrated backwards")
