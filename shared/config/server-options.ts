import { isIP } from 'node:net'
import type { TObject } from 'typebox'
import {
  asOption,
  choice,
  duration,
  group,
  list,
  optional,
  path,
  port,
  rate,
  size,
  text,
} from './options.ts'
import type { Loaded } from './options.ts'
import { isLoopback } from './origins.ts'
import { parseOptions, type Report } from './parse.ts'

/** The certificate of a listener. */
const tlsOptions = optional(
  group(
    {
      cert: path({
        existing: true,
        description:
          'The PEM file of the certificate, followed by its intermediates. Read again when it changes.',
      }),
      key: path({
        existing: true,
        description: 'The PEM file of its private key, without a passphrase.',
      }),
    },
    { description: 'Serves HTTPS.' },
  ),
)

/** What the listeners of both programs have in common. */
export function listenerOptions(defaultPort?: number) {
  return {
    address: text({
      default: '127.0.0.1',
      description: 'The IP address to listen on; 0.0.0.0 and :: are all.',
    }),
    port: port({
      ...(defaultPort === undefined ? {} : { default: defaultPort }),
      description: 'The port to listen on; 0 is any free one.',
    }),
    tls: tlsOptions,
    insecure_http: optional(
      choice(['anonymous', 'all'], {
        description:
          'Allows plain http on an address that is not loopback: `anonymous` serves public content only, `all` also takes log-ins, which then cross the network in clear.',
      }),
    ),
  }
}

/** Where a server listens, and how. */
export type ListenerOptions = Loaded<TObject<ReturnType<typeof listenerOptions>>>

/** The listener of metrics and readiness details. */
export function metricsOptions(defaultPort: number) {
  return group({
    address: text({
      default: '127.0.0.1',
      description:
        'Where `/metrics` and the details of `/readyz` are served, in plain http without log-in.',
    }),
    port: port({ default: defaultPort, description: 'Its port; 0 is any free one.' }),
  })
}

/** How long a client may take. */
export const timeoutsOptions = group({
  headers: duration({
    default: '60s',
    description: 'A request whose headers are not complete after this long is answered 408.',
  }),
  idle: duration({
    default: '60s',
    minimum: 1,
    description: 'A transfer that waits for its client, and moves no byte for this long, is cut.',
  }),
  keep_alive: duration({
    default: '120s',
    description:
      'An idle connection is kept this long: longer than clients and load balancers keep theirs, which would else send into a closing one.',
  }),
  minimum_rate: rate({
    default: '512B/s',
    description:
      'A transfer whose client stays below this rate for the whole of `minimum_rate_window` is cut; 0 turns that off.',
  }),
  minimum_rate_window: duration({
    default: '2m',
    minimum: 1,
    description:
      'The time over which the rate is measured, counting only the time spent on waiting for the client.',
  }),
  refused_body: duration({
    default: '10s',
    description:
      'How long a refused upload is read on, so that its client comes to read the refusal.',
  }),
  tls_handshake: duration({
    default: '30s',
    minimum: 1,
    description: 'How long a TLS handshake may take.',
  }),
  drain: duration({
    default: '25s',
    description:
      'How long running transfers may go on when the program is told to stop; after Ctrl-C, behind which a person waits, 5s at most.',
  }),
})

export type ServerTimeouts = Loaded<typeof timeoutsOptions>

/** The sizes that the server itself keeps. */
export const serverLimits = {
  headers: size({
    default: '64KiB',
    minimum: 8192,
    maximum: 2 ** 20,
    description:
      'The request line and all headers together; tokens of users with many projects are large.',
  }),
  refused_body: size({
    default: '64MiB',
    description:
      'How much of a refused upload is read on, so that its client comes to read the refusal.',
  }),
}

const limitsSchema = group(serverLimits)

export type ServerLimits = Loaded<typeof limitsSchema>

export const trustedProxiesOption = list(
  text({
    description: 'An IP address or a network.',
    form: 'an IP address or a network like 10.0.0.0/8',
  }),
  {
    description:
      "Addresses and networks of proxies whose `Forwarded` and `X-Forwarded-*` headers count. Nobody else's do.",
  },
)

export const outboundOptions = group({
  allow: list(text({ description: 'An IP address or a network.' }), {
    description:
      'Private addresses and networks that far sides may name (realms, redirects, webhooks). Hosts written in this configuration need no entry.',
  }),
})

export const externalUrlOption = optional(
  text({
    description:
      "What clients type, `https://registry.example.com`: tokens' realm and issued links are built from it. A port of 0 is the one that the listener got. Left out: the URL of the first listener.",
  }),
)

export const pushUrlOption = optional(
  text({
    description: 'Where pushes go, named in the refusal of a push that came to the wrong place.',
  }),
)

/** The defaults of the timeouts, for servers that no configuration was written for. */
export function defaultTimeouts(): ServerTimeouts {
  return parseOptions(asOption(timeoutsOptions), undefined, {
    path: '',
    report: refuse,
  }) as ServerTimeouts
}

/** The defaults of the sizes. */
export function defaultLimits(): ServerLimits {
  return parseOptions(asOption(limitsSchema), undefined, {
    path: '',
    report: refuse,
  }) as ServerLimits
}

function refuse(at: string, message: string): never {
  throw new Error(`the default of ${at} is wrong: ${message}`)
}

interface Endpoint {
  readonly address: string
  readonly port: number
}

/**
 * The rules of listeners: their addresses are IP addresses, no two want one port, and plain http
 * leaves the machine only where somebody said so.
 */
export function checkListeners(
  listeners: readonly ListenerOptions[],
  metrics: Endpoint,
  report: Report,
): void {
  if (listeners.length === 0) report('listeners', 'needs at least one element')
  const taken: { readonly endpoint: Endpoint; readonly at: string }[] = []
  const claim = (endpoint: Endpoint, at: string) => {
    if (endpoint.address !== 'localhost' && isIP(endpoint.address) === 0) {
      report(`${at}.address`, `must be an IP address, not '${endpoint.address}'`)
    }
    const other = taken.find((earlier) => collide(earlier.endpoint, endpoint))
    if (other !== undefined)
      report(`${at}.port`, `${endpoint.port} is already taken by ${other.at}`)
    taken.push({ endpoint, at })
  }
  listeners.forEach((listener, index) => {
    const at = `listeners.${index}`
    claim(listener, at)
    const isPlain = listener.tls === undefined && listener.insecure_http === undefined
    if (isPlain && !isLoopback(listener.address)) {
      report(
        at,
        `serves plain http on ${listener.address}: set tls, or insecure_http to 'anonymous' (public content only) or 'all' (passwords in clear)`,
      )
    }
    if (listener.tls !== undefined && listener.insecure_http !== undefined) {
      report(`${at}.insecure_http`, 'has no meaning on a listener with tls')
    }
  })
  claim(metrics, 'metrics')
}

function collide(one: Endpoint, other: Endpoint): boolean {
  if (one.port === 0 || one.port !== other.port) return false
  const isAny = (address: string) => address === '0.0.0.0' || address === '::'
  return one.address === other.address || isAny(one.address) || isAny(other.address)
}
