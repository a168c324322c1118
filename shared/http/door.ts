import { isIP, type LookupFunction, type Socket } from 'node:net'
import { createSecureContext, getCACertificates, type SecureContext } from 'node:tls'
import { LRUCache } from 'lru-cache'
import type { buildConnector } from 'undici'
import { hostOf, portOf, type Guard, type GuardTarget } from './guard.ts'
import { openTunnel, type ChooseProxy } from './proxy.ts'
import { createConnector } from './undici.ts'

export interface DoorOptions {
  /** Asked for every connection. */
  readonly guard: Guard
  /** PEM of the CAs to trust instead of the system's. */
  readonly ca?: string | undefined
  /** What we prove who we are by, to servers that ask for it: PEM. */
  readonly clientCertificate?: ClientCertificate | undefined
  /**
   * With it, `ca` and `clientCertificate` are for this origin only: whatever else is dialled may also be known to the
   * system's CAs, and never learns who we are.
   */
  readonly ownOrigin?: URL
  /** The name that certificates must be for, instead of the URL's host. */
  readonly servername?: string | undefined
  /** Who is reached through a proxy; nobody without. */
  readonly chooseProxy?: ChooseProxy | undefined
}

export interface ClientCertificate {
  /** The certificate, then its intermediates. */
  readonly cert: string
  readonly key: string
}

/** What every new connection passes, got's and undici's. */
export interface Door {
  /** No look-up happens for what is an address already. @throws ForbiddenAddressError */
  check(target: GuardTarget): void
  optionsFor(target: GuardTarget): TargetOptions
  /** It remembers TLS sessions, and ends an attempt after the connect timeout. */
  connectorFor(target: GuardTarget): buildConnector.connector
  /** Connects through a proxy. @returns false where the target is to be dialled itself: nothing happens then */
  connectByProxy(dial: buildConnector.Options, answer: buildConnector.Callback): boolean
}

interface TargetOptions {
  readonly lookup: LookupFunction
  readonly rejectUnauthorized: true
  readonly secureContext?: SecureContext
  readonly servername?: string
}

/** Who may be dialled, by which way, whom we trust there, and who we say that we are. */
export function createDoor(options: DoorOptions & { readonly connectTimeoutMs: number }): Door {
  const { guard, chooseProxy, servername, connectTimeoutMs } = options
  const contextFor = createContexts(options)
  /** By host and port: a look-up is not told the port, which the guard wants. */
  const connectors = new LRUCache<string, buildConnector.connector>({ max: 64 })

  function optionsFor(target: GuardTarget): TargetOptions {
    const secureContext = contextFor(target)
    return {
      lookup: guard.lookupFor(target.port),
      rejectUnauthorized: true,
      ...(secureContext && { secureContext }),
      ...(servername !== undefined && { servername }),
    }
  }

  function connectorFor(target: GuardTarget): buildConnector.connector {
    const key = JSON.stringify([target.host, target.port])
    const known = connectors.get(key)
    if (known !== undefined) return known
    const connector = createConnector({
      allowH2: false,
      timeout: connectTimeoutMs,
      ...optionsFor(target),
    })
    connectors.set(key, connector)
    return connector
  }

  async function tunnelled(proxy: URL, dial: buildConnector.Options): Promise<Socket> {
    const target = targetOf(dial)
    // The proxy resolves the name, and nobody tells what it dials then: what we know of the name must do.
    await guard.checkName(target)
    const tunnel = await openTunnel(proxy, target, { timeoutMs: connectTimeoutMs })
    if (dial.protocol !== 'https:') return tunnel
    return new Promise((resolve, reject) => {
      connectorFor(target)({ ...dial, httpSocket: tunnel }, (error, socket) => {
        if (error === null) return resolve(socket)
        tunnel.destroy()
        reject(error)
      })
    })
  }

  return {
    check(target) {
      if (isIP(target.host) !== 0) guard.check(target, target.host)
    },
    optionsFor,
    connectorFor,
    connectByProxy(dial, answer) {
      const proxy = chooseProxy?.(dial.protocol, targetOf(dial))
      if (proxy === undefined) return false
      tunnelled(proxy, dial).then(
        (socket) => answer(null, socket),
        (error: unknown) => answer(error as Error, null),
      )
      return true
    },
  }
}

/** What undici is to dial. */
export function targetOf({ hostname, protocol, port }: buildConnector.Options): GuardTarget {
  return { host: hostname, port: Number(port || (protocol === 'https:' ? 443 : 80)) }
}

function createContexts({ ca, clientCertificate, ownOrigin }: DoorOptions) {
  const own = ownOrigin && { host: hostOf(ownOrigin), port: portOf(ownOrigin) }
  let only: SecureContext | undefined
  let besides: SecureContext | undefined
  return ({ host, port }: GuardTarget): SecureContext | undefined => {
    if (own === undefined || (own.host === host.toLowerCase() && own.port === port)) {
      if (ca === undefined && clientCertificate === undefined) return undefined
      return (only ??= createSecureContext({
        ...clientCertificate,
        ...(ca !== undefined && { ca }),
      }))
    }
    if (ca === undefined) return undefined
    return (besides ??= createSecureContext({ ca: [...getCACertificates('default'), ca] }))
  }
}
