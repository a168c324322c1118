import type { TObject } from 'typebox'
import {
  duration,
  flag,
  group,
  list,
  optional,
  path,
  text,
  type Loaded,
} from '../config/options.ts'
import type { Report } from '../config/parse.ts'
import { checkOrigin, isLoopback } from '../config/origins.ts'
import { placePattern } from './service.ts'

const place = (description: string) =>
  optional(
    text({
      pattern: placePattern,
      form: 'of lower-case letters and digits, with dots, dashes and underscores between; at most 63',
      description,
    }),
  )

/** How the agent is reached, and what it is asked about. */
const agentOptions = {
  address: text({
    default: 'http://127.0.0.1:8500',
    description:
      'The URL of the Consul agent, http or https: that of this machine, because how near others are is measured from there.',
  }),
  ca: optional(
    path({
      existing: true,
      description: "A PEM file of the CAs to trust there instead of the system's.",
    }),
  ),
  client_cert: optional(
    group({
      cert: path({
        existing: true,
        description:
          'The PEM file of the certificate to show the agent when it asks for one, followed by its intermediates. Read at the start.',
      }),
      key: path({
        existing: true,
        description: 'The PEM file of its private key, without a passphrase.',
      }),
    }),
  ),
  token_file: optional(
    path({
      existing: true,
      description: 'The file that holds the ACL token. Read for each request: it may be replaced.',
    }),
  ),
  insecure_http: flag({
    default: false,
    description: 'Allows to send the token to a plain http URL that is not on this machine.',
  }),
  datacenter: optional(
    text({
      description:
        "The datacenter in which others are looked up. Left out: the agent's own, in which this is registered too.",
    }),
  ),
  namespace: optional(text({ description: 'The namespace, of Consul Enterprise.' })),
  partition: optional(text({ description: 'The admin partition, of Consul Enterprise.' })),
  url: optional(
    text({
      description:
        "The URL that others are told: this program's alone. Left out: `external_url`, or that of the first listener.",
    }),
  ),
  ttl: duration({
    default: '15s',
    // Of shorter ones, busy agents lose beats.
    minimum: 10_000,
    maximum: 3_600_000,
    description: 'Without a sign of life for this long, Consul takes this for gone.',
  }),
  deregister_after: duration({
    default: '5m',
    minimum: 60_000,
    description: 'Consul forgets what has been gone for this long.',
  }),
  tags: list(text({ description: 'A tag.' }), { description: 'Tags of the service.' }),
}

/** Which Consul, and how to be seen there. */
export type ConsulOptions = Loaded<TObject<typeof agentOptions>>

/** The option `primary.consul`. */
export const primaryConsulOption = optional(
  group(agentOptions, {
    description: 'Registers this primary at Consul, as `outport-primary`. Left out: it is not.',
  }),
)

/** The option `edge.consul`. */
export const edgeConsulOption = optional(
  group(
    {
      ...agentOptions,
      site: place('The site to be shown there; what counts is what the primary says.'),
      region: place('The region to be shown there.'),
    },
    {
      description: 'Registers this edge at Consul, as `outport-edge`. Left out: it is not.',
    },
  ),
)

/** The rules of a `consul` group, which may have been left out. */
export function checkConsul(consul: ConsulOptions | undefined, report: Report): void {
  if (consul === undefined) return
  checkOrigin(consul.url, 'consul.url', report)
  checkOrigin(consul.address, 'consul.address', report)
  const url = URL.parse(consul.address)
  const isClear = url?.protocol === 'http:' && !isLoopback(url.hostname)
  if (isClear && consul.token_file !== undefined && !consul.insecure_http)
    report('consul', `would send its token in clear to ${url.origin}: use https, or insecure_http`)
}
