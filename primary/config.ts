import { isIP } from 'node:net'
import { defineSection, type CommonConfig } from '../shared/config/load.ts'
import {
  count,
  duration,
  flag,
  group,
  list,
  optional,
  path,
  port,
  size,
  text,
  type Loaded,
} from '../shared/config/options.ts'
import { checkOrigin } from '../shared/config/origins.ts'
import { checkNetworks } from '../shared/config/networks.ts'
import {
  checkListeners,
  externalUrlOption,
  listenerOptions,
  metricsOptions,
  outboundOptions,
  pushUrlOption,
  serverLimits,
  timeoutsOptions,
  trustedProxiesOption,
} from '../shared/config/server-options.ts'
import { checkConsul, primaryConsulOption } from '../shared/discovery/options.ts'
import { parsePattern } from '../shared/match/doublestar.ts'

const primarySchema = group({
  external_url: externalUrlOption,
  push_url: pushUrlOption,
  listeners: list(group(listenerOptions(8080)), {
    default: [{}],
    description: 'Where clients come in.',
  }),
  internal: group({
    address: text({
      default: '127.0.0.1',
      description:
        'Where edges that joined come for events: HTTPS that takes their certificates and nobody else.',
    }),
    port: port({ default: 8090, description: 'Its port; 0 is any free one.' }),
    external_url: optional(
      text({
        description:
          'How edges reach it, `https://registry.example.com:8090`. Left out: by the host of `external_url` and the port, or by the address if that is this machine alone.',
      }),
    ),
  }),
  metrics: metricsOptions(9090),
  consul: primaryConsulOption,
  trusted_proxies: trustedProxiesOption,
  database: group({
    url: optional(
      text({
        secret: true,
        form: 'a postgres:// URL',
        pattern: '^postgres(?:ql)?://',
        description:
          'A PostgreSQL of your own, 15 or newer: `postgres://user:password@host/name`. Left out: an embedded one in the data folder.',
      }),
    ),
    pool_size: count({
      default: 8,
      minimum: 2,
      maximum: 200,
      description: 'Connections to the database.',
    }),
    connect_timeout: duration({
      default: '10s',
      description: 'How long a request waits for a connection before it is answered 503.',
    }),
    statement_timeout: duration({
      default: '30s',
      description: 'The longest that one statement may run.',
    }),
    start_timeout: duration({
      default: '60s',
      description:
        'How long the embedded PostgreSQL may take to start, recovery after a crash included.',
    }),
  }),
  key_file: optional(
    path({
      description:
        'The file of the key that encrypts the keys in the database, made if it is not there. Left out: beside the data folder, `<data>.key`. Losing it loses every key.',
    }),
  ),
  ca_file: optional(
    path({
      existing: true,
      description: 'The CA certificate that `GET /api/v2.0/systeminfo/getcert` hands to clients.',
    }),
  ),
  admin_password: optional(
    text({
      secret: true,
      description:
        'The first password of `admin`, used when that account is made and never again. Left out: a random one, kept in the data folder.',
    }),
  ),
  tokens: group({
    lifetime: duration({
      default: '5m',
      // docker takes anything shorter for a minute, and would send expired tokens.
      minimum: 60_000,
      maximum: 86_400_000,
      description: 'How long a token is valid.',
    }),
  }),
  uploads: group({
    max_age: duration({
      default: '24h',
      description: 'An upload that nobody went on with for this long is removed.',
    }),
    sweep: duration({
      default: '10m',
      minimum: 1,
      description: 'How often abandoned uploads are looked for.',
    }),
    concurrent: count({
      default: 256,
      minimum: 1,
      description: 'Uploads that receive bytes at once; more are answered 429 with Retry-After.',
    }),
    concurrent_per_account: count({
      default: 128,
      minimum: 1,
      description: 'The same for one account, so that one cannot keep all others out.',
    }),
    open_per_account: count({
      default: 1000,
      minimum: 1,
      description: 'Upload sessions that one account may have open.',
    }),
  }),
  piece_lists: group({
    from: size({
      default: '64MiB',
      minimum: 1024 * 1024 + 1,
      description:
        'Blobs of this size and more are listed piece by piece after they were pushed, so that edges can prove each MiB alone; what a rule brings is from 8 MiB on, however large this is.',
    }),
  }),
  sparse_manifests: flag({
    default: false,
    description:
      'Whether a manifest may name blobs and manifests that are not in its repository: partial copies do.',
  }),
  limits: group({
    ...serverLimits,
    manifest: size({
      default: '4MiB',
      minimum: 65_536,
      maximum: 4 * 2 ** 20,
      description: 'The largest manifest that may be pushed.',
    }),
    json_body: size({ default: '1MiB', description: 'The largest body of an admin API request.' }),
  }),
  timeouts: timeoutsOptions,
  login_rate: group({
    failures: count({
      default: 10,
      minimum: 1,
      description:
        'Failed log-ins of one account from one address within `window`; more are answered 429. Through one edge, from all its addresses, ten times as many.',
    }),
    window: duration({
      default: '5m',
      minimum: 1,
      description: 'The time over which they are counted.',
    }),
  }),
  cache: group({
    memory: size({
      default: '64MiB',
      description: 'Manifests and small blobs held ready in memory.',
    }),
    decisions: count({
      default: 10_000,
      description: 'Tokens, access decisions and digests that are remembered.',
    }),
    transfer_buffers: size({
      default: '64MiB',
      description:
        'Large buffers of downloads; when they are all in use, downloads go on with small ones.',
    }),
  }),
  events: group({
    retain: duration({ default: '24h', description: 'How long the event log is kept.' }),
  }),
  keys: group({
    ahead: duration({
      default: '2m',
      // An edge looks for keys that it does not know every few seconds; a cache on the way keeps the list for a minute.
      minimum: 1,
      description:
        'How long a key that was rotated in is told of before it signs, so that everybody knows it by then.',
    }),
  }),
  outbound: outboundOptions,
  edges: list(
    group({
      id: text({
        pattern: '^[a-z0-9]+(?:-[a-z0-9]+)*$',
        form: 'of lower-case letters, digits and single dashes',
        description: "The edge's id; it never changes.",
      }),
      name: optional(text({ description: 'What people call it.' })),
      credential_file: path({
        existing: true,
        description: "The file that holds the edge's secret.",
      }),
      scope: list(text({ description: "A project's name, or `*`." }), {
        default: ['*'],
        description: 'The projects that the edge may pull; `*` is all.',
      }),
      accept_people: flag({
        default: false,
        description:
          'Whether accounts of people may log in through this edge, which then sees their passwords.',
      }),
    }),
    { description: 'The edges that may pull from this primary.' },
  ),
  client_edges: list(
    text({
      description: 'A host, with `*` for any characters: `edge-*.example.com`.',
    }),
    {
      description:
        'The hosts of edges that clients are told of at `/service/edges`, which `outport hosts --near` reads without a log-in: id, site, region and `external_url` of each edge that is on one of them. An edge elsewhere is not shown, whatever it says of itself. Left out: none.',
    },
  ),
})

/** The `primary:` part, loaded: sizes in bytes, durations in milliseconds. */
export type PrimaryOptions = Loaded<typeof primarySchema> & { readonly key_file: string }

/** What startPrimary takes. */
export type PrimaryConfig = CommonConfig & { readonly primary: PrimaryOptions }

/** The primary's part of the configuration file: schema, rules, and what follows from other options. */
export const primarySection = defineSection({
  name: 'primary',
  schema: primarySchema,
  checks: [
    {
      reads: ['listeners', 'metrics'],
      check: ({ listeners, metrics }, report) => checkListeners(listeners, metrics, report),
    },
    {
      reads: ['external_url'],
      check: (options, report) => checkOrigin(options.external_url, 'external_url', report),
    },
    {
      reads: ['internal'],
      check: ({ internal }, report) => {
        if (isIP(internal.address) === 0) report('internal.address', 'must be an IP address')
        checkOrigin(internal.external_url, 'internal.external_url', report)
      },
    },
    {
      reads: ['push_url'],
      check: (options, report) => checkOrigin(options.push_url, 'push_url', report),
    },
    {
      reads: ['trusted_proxies'],
      check: (options, report) => checkNetworks(options.trusted_proxies, 'trusted_proxies', report),
    },
    {
      reads: ['outbound'],
      check: (options, report) => checkNetworks(options.outbound.allow, 'outbound.allow', report),
    },
    { reads: ['edges'], check: checkEdges },
    { reads: ['key_file'], check: checkKeyFile },
    { reads: ['consul'], check: ({ consul }, report) => checkConsul(consul, report) },
    { reads: ['client_edges'], check: checkClientEdges },
  ],
  complete: (options, common): PrimaryOptions => ({
    ...options,
    key_file: options.key_file ?? `${common.data}.key`,
  }),
})

type RawOptions = Loaded<typeof primarySchema>
type Report = (path: string, message: string) => void

function checkEdges({ edges }: RawOptions, report: Report): void {
  const ids = new Set<string>()
  edges.forEach((edge, index) => {
    if (ids.has(edge.id)) report(`edges.${index}.id`, `'${edge.id}' is another edge's id already`)
    ids.add(edge.id)
    if (edge.scope.length === 0) report(`edges.${index}.scope`, "needs a project, or '*' for all")
  })
}

function checkKeyFile({ key_file }: RawOptions, report: Report, { data }: CommonConfig): void {
  // A copy of the data folder must not be enough to read the keys in it.
  if (key_file !== undefined && `${key_file}/`.startsWith(`${data}/`)) {
    report('key_file', 'must lie outside the data folder, whose copies it protects')
  }
}

function checkClientEdges(
  { client_edges: hosts }: Loaded<typeof primarySchema>,
  report: Report,
): void {
  hosts.forEach((host, index) => {
    try {
      parsePattern(host)
    } catch (error) {
      report(`client_edges.${index}`, error instanceof Error ? error.message : String(error))
    }
  })
}
