import { defineSection, type CommonConfig } from '../shared/config/load.ts'
import {
  choice,
  count,
  duration,
  flag,
  group,
  list,
  optional,
  path,
  port,
  rate,
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
import { checkConsul, edgeConsulOption } from '../shared/discovery/options.ts'
import { readyMade } from '../shared/upstream/ready-made.ts'
import {
  checkListenerNames,
  checkPins,
  checkPrimary,
  checkProxy,
  checkShares,
  checkUpstreams,
} from './config-checks.ts'
import { outboundOf, type OutboundOptions } from './upstreams/outbound.ts'
import { primaryUpstream, upstreamTable } from './upstreams/configured.ts'

const idForm = {
  pattern: '^[a-z0-9]+(?:[.-][a-z0-9]+)*$',
  form: 'of lower-case letters and digits, with single dots or dashes between',
}

/** As the primary's `edges[].id`. */
const edgeIdForm = {
  pattern: '^[a-z0-9]+(?:-[a-z0-9]+)*$',
  form: 'of lower-case letters, digits and single dashes',
}

const upstreamLimits = group({
  connections: count({ default: 16, minimum: 1, description: 'Connections for blobs.' }),
  manifest_connections: count({
    default: 8,
    minimum: 1,
    description:
      'Connections of their own for manifests and tags, so that blobs never hold them up.',
  }),
})

const credentials = optional(
  group({
    username: text({
      description: 'The user, robot or (at an Outport primary) edge to log in as.',
    }),
    password: optional(text({ secret: true, description: 'Its password or token.' })),
    password_file: optional(path({ existing: true, description: 'The file that holds it.' })),
  }),
)

const clientCert = optional(
  group({
    cert: path({
      existing: true,
      description:
        'The PEM file of the certificate that this edge shows there when it is asked for one, followed by its intermediates. Read at the start; other hosts, of its tokens and redirects, never see it.',
    }),
    key: path({
      existing: true,
      description: 'The PEM file of its private key, without a passphrase.',
    }),
  }),
)

/** Off unless somebody says so: who only looks at manifests, as scanners do, would have whole images fetched. */
const prefetchOption = choice(['off', 'on', 'platforms'], {
  default: 'off',
  description:
    'What is fetched ahead, behind what clients wait for, when a client gets a manifest that is new here: nothing (`off`), all that it names (`on`), or of an index only the platforms that this edge has served in the last 30 days (`platforms`).',
})

/** How the tags of an upstream are answered. */
const tagOptions = ({ ttl, negativeTtl }: { readonly ttl: string; readonly negativeTtl: string }) =>
  ({
    tag_ttl: duration({
      default: ttl,
      description:
        'How long a tag is answered without asking the upstream again; one that is in use is asked for in the background a little before.',
    }),
    tag_wait: duration({
      default: '2s',
      minimum: 1,
      description:
        'How long a client whose tag is known waits for the upstream to confirm it; then it gets what was known, with `Age` and `Warning: 110`.',
    }),
    max_stale: optional(
      duration({
        description:
          'How long ago the upstream must have confirmed a tag that is answered while it is away. Left out: however long ago. After a 401, 403 or 404 none is.',
      }),
    ),
    negative_ttl: duration({
      default: negativeTtl,
      description: 'How long a 401, 403 or 404 for a manifest or tag is remembered.',
    }),
  }) as const

const upstreamSchema = group({
  id: text({
    ...idForm,
    description: "The upstream's id, also its path prefix `/v2/<id>/…`; it never changes.",
  }),
  kind: choice(['registry', 'outport'], {
    default: 'registry',
    description: 'An Outport primary (`outport`), or any other registry.',
  }),
  names: list(text({ description: "A registry's name." }), {
    description: 'What clients call this registry in `?ns=`, its host names; the id counts too.',
  }),
  url: optional(
    text({
      description:
        'Where it is, `https://registry.example.com`. A ready-made one knows it already.',
    }),
  ),
  ca: optional(
    path({
      existing: true,
      description: "A PEM file of the CAs to trust there instead of the system's.",
    }),
  ),
  client_cert: clientCert,
  insecure_http: flag({
    default: false,
    description: 'Allows to send credentials to a plain http URL that is not on this machine.',
  }),
  credentials,
  realm_hosts: list(text({ description: 'A host, or host:port.' }), {
    description: 'Hosts besides its own that may ask for these credentials as its token service.',
  }),
  redirect_hosts: list(text({ description: 'A host, or host:port.' }), {
    description:
      'Hosts that its blob downloads may be redirected to although they are at private addresses.',
  }),
  access: choice(['open', 'passthrough'], {
    default: 'open',
    description:
      'Who may read what comes from it: everybody who reaches a listener, with the rights of its credentials (`open`); or each with the rights of its own login there, on a listener of its own (`passthrough`).',
  }),
  redirect_manifests: flag({
    default: false,
    description:
      'Follows redirects of manifests too: for a registry that is only a front of others.',
  }),
  mirrors: list(text({ description: "An upstream's id, or `id/prefix`." }), {
    description:
      'Other upstreams that have its content too, by their ids: blobs, and manifests by digest, are asked of these first, in this order, with their own credentials. Behind an id and a slash stands what repository names begin with there: `harbor/hub-proxy`. Tags and lists are its own alone.',
  }),
  mirror_wait: duration({
    default: '2s',
    minimum: 1,
    description: 'A mirror that sends nothing for this long is given up for the next source.',
  }),
  ...tagOptions({ ttl: '60s', negativeTtl: '10s' }),
  prefetch: prefetchOption,
  rate_budget: count({
    default: 10,
    description:
      "With fewer pulls left of the upstream's rate limit than this, known tags are not asked for again: what is left is for images that are not here yet.",
  }),
  limits: upstreamLimits,
})

const listenerSchema = group({
  name: text({ ...idForm, description: "The listener's name." }),
  ...listenerOptions(),
  default: text({ description: 'The id of the upstream of requests that name none.' }),
  passthrough: optional(
    text({
      description:
        'The id of the one upstream that this listener stands for, whose `access` is `passthrough`: clients log in with what they have there. Needs `tls`, and the same `default`.',
    }),
  ),
  ping: choice(['challenge', 'open'], {
    default: 'challenge',
    description:
      "Whether `/v2/` asks for a log-in. `open` serves what is open to everybody and drops credentials unread: for docker's `registry-mirrors`.",
  }),
})

const readyMadeIds = readyMade.map(({ id }) => id)

const edgeSchema = group({
  id: optional(
    text({
      ...edgeIdForm,
      description:
        "This edge's id at its primary. Left out: that of the identity which `outport edge join` wrote into the data folder; without one it pulls there anonymously.",
    }),
  ),
  name: optional(text({ description: 'What people call this edge.' })),
  external_url: externalUrlOption,
  push_url: pushUrlOption,
  credential_file: optional(
    path({
      existing: true,
      description:
        "The file that holds this edge's secret at its primary. Left out: that of the identity.",
    }),
  ),
  primary: group({
    url: text({
      default: 'http://127.0.0.1:8080',
      description:
        'The primary, as this edge reaches it. Left out: that which it joined, if it did; so with `ca`.',
    }),
    ca: optional(
      path({
        existing: true,
        description: "A PEM file of the CAs to trust there instead of the system's.",
      }),
    ),
    client_cert: clientCert,
    names: list(text({ description: "A registry's name." }), {
      description: 'What clients call the primary in `?ns=`; the host of its URL counts too.',
    }),
    insecure_http: flag({
      default: false,
      description:
        "Allows to send this edge's secret to a plain http URL that is not on this machine.",
    }),
    ...tagOptions({ ttl: '5s', negativeTtl: '0s' }),
    prefetch: prefetchOption,
    limits: upstreamLimits,
  }),
  ready_made: list(choice(readyMadeIds, { description: 'A public registry.' }), {
    default: readyMadeIds,
    description: 'The public registries that this edge mirrors without an entry in `upstreams`.',
  }),
  upstreams: list(upstreamSchema, {
    description:
      'The registries that this edge mirrors besides. With the id of a ready-made one it stands for that, and what it leaves out is as there.',
  }),
  listeners: list(listenerSchema, {
    default: [
      { name: 'edge', port: 8081, default: 'primary', ping: 'challenge' },
      { name: 'mirror', port: 8082, default: 'docker.io', ping: 'open' },
    ],
    description: 'Where clients come in.',
  }),
  metrics: metricsOptions(9091),
  consul: edgeConsulOption,
  peers: optional(
    group(
      {
        address: text({
          default: '127.0.0.1',
          description: 'The IP address that other edges of the site reach it at; 0.0.0.0 is all.',
        }),
        port: port({ default: 8091, description: 'Its port; 0 is any free one.' }),
        external_url: optional(
          text({
            description:
              'How they reach it, `https://10.0.0.7:8091`. Left out: by the address and port, which must then be one that they can dial.',
          }),
        ),
        uploads: count({
          default: 8,
          minimum: 1,
          description:
            'Blobs that go out to other edges at once; whoever comes then is told who else has what it asks for.',
        }),
        upload_rate: optional(
          rate({
            minimum: 1024,
            description:
              'Bytes a second that go out to other edges, all together. Left out: what the line gives.',
          }),
        ),
        children: flag({
          default: false,
          description:
            'Whether edges of other sites get something here too: those that name this edge as their `parent`. What each may read its scope at the primary says.',
        }),
      },
      {
        description:
          'Where other edges of its site get blobs: HTTPS that takes their certificates and nobody else. With it the site is one cache. Left out: this edge asks the others, and gives them nothing.',
      },
    ),
  ),
  parent: optional(
    group(
      {
        id: text({
          ...edgeIdForm,
          description: 'Its id at the primary. It must have `peers` with `children`.',
        }),
        url: optional(
          text({
            description:
              'Its `peers` listener, as this edge reaches it. Left out: as its primary says.',
          }),
        ),
      },
      {
        description:
          'An edge of another site that is nearer to the upstreams: what this site misses is asked of it first. Left out: the upstreams are asked.',
      },
    ),
  ),
  peer_wait: duration({
    default: '3s',
    minimum: 1,
    description:
      'How long another edge of the site may send nothing, or of a part of a blob far less than the others do, before somebody else is asked.',
  }),
  follow: flag({
    default: true,
    description:
      "Whether it follows its primary's events, so that tags are known without asking; it needs an identity for that: `outport edge join`, or id and credential_file.",
  }),
  offline_grace: duration({
    default: '1h',
    maximum: 24 * 3_600_000,
    description:
      'How long after its primary last took a log-in this edge goes on taking it by itself while the primary cannot be asked; 0 never.',
  }),
  trusted_proxies: trustedProxiesOption,
  cache: group({
    size: optional(
      size({
        minimum: 2 ** 20,
        description:
          'Bytes on disk for blobs and manifests: what is used least, for its size, goes from 92 % of it down to 85 %. Left out: 95 % of what the disk has free, with what is held.',
      }),
    ),
    memory: size({
      default: '64MiB',
      description: 'Manifests, tags and small blobs held ready in memory.',
    }),
    memory_blob: size({ default: '1MiB', description: 'The largest blob that is held in memory.' }),
    shares: list(
      group({
        upstream: text({ description: "An upstream's id." }),
        project: optional(
          count({ minimum: 1, description: "The id of one of the primary's projects." }),
        ),
        percent: count({ minimum: 1, maximum: 100, description: 'Of the cache.' }),
      }),
      {
        description:
          'What an upstream, or one project of the primary, may take of the cache at most; what goes for its sake is its own.',
      },
    ),
    pins: list(
      group({
        upstream: text({ description: "An upstream's id." }),
        repository: text({
          description:
            'A repository, as clients name it there (`library/alpine`), or all below a path: `prod/**`.',
        }),
        references: optional(
          list(text({ description: 'A tag or a digest.' }), {
            description: 'Which of its images. Left out: those that its tags name here.',
          }),
        ),
      }),
      {
        description:
          'Images that stay in the cache, once they are here, whoever needs room; not what a tag has moved away from. Together they may have 80 % of it, above that some go too.',
      },
    ),
    prune: group({
      mode: choice(['off', 'dry_run', 'on'], {
        default: 'off',
        description:
          "Whether images of the primary go that nothing keeps here: no rule, preheat or pin. `dry_run` says in the log what would go. Other registries' stay.",
      }),
      limit: count({
        default: 20,
        minimum: 1,
        maximum: 100,
        description:
          "Per cent of the primary's bytes that may go at once: if it would be more, none goes, and the log says so. 100: whatever it is.",
      }),
      every: duration({
        default: '1h',
        minimum: 1000,
        description: 'How often. What came since half as long ago stays.',
      }),
    }),
    unlisted: duration({
      default: '30d',
      description:
        'How long images stay, whoever needs room, that a restored primary does not know any more, from when its new epoch was accepted: nobody is served them, and they may be needed to repair what was lost. They count as pins.',
    }),
    proof_ttl: duration({
      default: '24h',
      description:
        'How long a file on the disk counts as what its digest says. After that it is hashed beside its next reader, who gets its last 64 KiB when it is proved; `0s` each time it is read.',
    }),
    scrub: rate({
      default: '4MiB',
      description:
        'Bytes a second at which all that is held is read again and again, to find what the disk has not kept; 0 never.',
    }),
    decisions: count({
      default: 10_000,
      description: 'Tokens and access decisions that are remembered.',
    }),
    decision_ttl: duration({
      default: '60s',
      maximum: 300_000,
      description:
        "How long an upstream's answer about a right counts; with passthrough a minute at most.",
    }),
    fill_buffers: size({
      default: '64MiB',
      minimum: 8 * 2 ** 20,
      description: 'The memory of all blobs that are being fetched, together.',
    }),
    transfer_buffers: size({
      default: '64MiB',
      description:
        'Large buffers of downloads; when they are all in use, downloads go on with small ones.',
    }),
  }),
  fill: group({
    segment: size({
      default: '8MiB',
      minimum: 2 ** 20,
      description: 'The unit of requests to an upstream, a multiple of 1MiB.',
    }),
    withheld: size({
      default: '64KiB',
      minimum: 1,
      description: 'The end of a blob that no client gets before the blob is proved.',
    }),
    connect: duration({
      default: '10s',
      minimum: 1,
      description: 'How long a connection to an upstream may take.',
    }),
    no_progress: duration({
      default: '10s',
      minimum: 1,
      description: 'A source that sends nothing for this long is given up for the next one.',
    }),
    open_wait: duration({
      default: '5s',
      minimum: 1,
      description:
        'A client whose blob waits longer for its turn at the upstream is answered 503, and the blob is fetched all the same.',
    }),
    tail_wait: duration({
      default: '1s',
      description:
        'A range in the withheld end that would wait longer is fetched from the upstream instead.',
    }),
    unowned: duration({
      default: '10m',
      description: 'How long a fetch goes on after its last client has gone.',
    }),
    concurrent: count({
      default: 128,
      minimum: 1,
      description:
        'Blobs that are fetched at once, from all upstreams; another one is answered 503.',
    }),
  }),
  limits: group(serverLimits),
  timeouts: timeoutsOptions,
  outbound: group({
    ...outboundOptions.properties,
    proxy: optional(
      text({
        secret: true,
        description:
          'The http or https proxy through which upstreams are reached that are not on this machine, `http://proxy.example:3128`, with a user and password where it wants them. It must allow CONNECT to the ports of all of them, those of plain http too. Left out: what `HTTPS_PROXY` says, for plain http `HTTP_PROXY`.',
      }),
    ),
    no_proxy: optional(
      list(text({ description: 'A host.' }), {
        description:
          'Who is reached without the proxy: addresses, networks, `example.com` with all below it, `.example.com` for only those, any but networks with a port (`example.com:5000`), or `*`. Left out: what `NO_PROXY` says.',
      }),
    ),
  }),
})

/** As written, with defaults. */
export type RawOptions = Loaded<typeof edgeSchema>

/** A registry that the edge mirrors. */
export type UpstreamOptions = Omit<ConfiguredUpstream, 'access' | 'url'> & {
  readonly url: string
  /** `primary`: as the tokens of this edge's own primary say, which name the primary's repositories alone. */
  readonly access: ConfiguredUpstream['access'] | 'primary'
}

export type ConfiguredUpstream = Loaded<typeof upstreamSchema>

export type EdgeListenerOptions = Loaded<typeof listenerSchema>

/**
 * The `edge:` part, loaded: sizes in bytes, durations in milliseconds. `upstreams` is the whole closed
 * table: the primary, docker.io and the configured ones.
 */
export type EdgeOptions = Omit<RawOptions, 'upstreams' | 'outbound'> & {
  readonly upstreams: readonly UpstreamOptions[]
  readonly outbound: OutboundOptions
}

/** What startEdge takes. */
export type EdgeConfig = CommonConfig & { readonly edge: EdgeOptions }

/** The edge's part of the configuration file: schema, rules, and what follows from other options. */
export const edgeSection = defineSection({
  name: 'edge',
  schema: edgeSchema,
  checks: [
    {
      reads: ['listeners', 'metrics'],
      check: ({ listeners, metrics }, report) => checkListeners(listeners, metrics, report),
    },
    {
      reads: ['listeners', 'upstreams', 'primary', 'ready_made'],
      check: checkListenerNames,
    },
    { reads: ['upstreams', 'primary', 'ready_made'], check: checkUpstreams },
    { reads: ['primary', 'id', 'credential_file'], check: checkPrimary },
    { reads: ['consul'], check: ({ consul }, report) => checkConsul(consul, report) },
    {
      reads: ['external_url'],
      check: (options, report) => checkOrigin(options.external_url, 'external_url', report),
    },
    {
      reads: ['parent', 'id'],
      check: ({ parent, id }, report) => {
        checkOrigin(parent?.url, 'parent.url', report)
        if (parent?.url?.startsWith('https:') === false) report('parent.url', 'must be https')
        if (parent !== undefined && parent.id === id) report('parent.id', 'is this edge itself')
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
      check: ({ outbound }, report) => {
        checkNetworks(outbound.allow, 'outbound.allow', report)
        checkProxy(outbound, report)
      },
    },
    { reads: ['cache', 'upstreams', 'primary', 'ready_made'], check: checkShares },
    { reads: ['cache', 'upstreams', 'primary', 'ready_made'], check: checkPins },
    {
      reads: ['fill'],
      check: ({ fill }, report) => {
        if (fill.segment % 2 ** 20 !== 0) report('fill.segment', 'must be a multiple of 1MiB')
        if (fill.withheld > 2 ** 20) report('fill.withheld', 'must be at most 1MiB')
      },
    },
  ],
  complete: (options, _common, env): EdgeOptions => ({
    ...options,
    upstreams: upstreamTable(options),
    outbound: outboundOf(options.outbound, env),
  }),
})

/** The same edge at a primary that is elsewhere, or has other names. */
export function atPrimary(options: EdgeOptions, primary: EdgeOptions['primary']): EdgeOptions {
  const moved = { ...options, primary }
  return { ...moved, upstreams: [primaryUpstream(moved), ...options.upstreams.slice(1)] }
}
