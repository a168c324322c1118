import { hostOf, portOf } from '../http/guard.ts'
import type { ServiceRegistration } from './consul-client.ts'

/** What edges and primaries are called in Consul. */
export const edgeServiceName = 'outport-edge'
export const primaryServiceName = 'outport-primary'

/** What Consul keeps of a value of `Meta`. [Consul, agent/structs, metaValueMaxLength] */
const longestMeta = 512

/** What others shall find in Consul. */
export interface Announcement {
  /** The edge's id at its primary; of a primary, what tells it from others. */
  readonly id: string
  /** Where clients reach it: an origin. */
  readonly url: string
  readonly version: string
  readonly site?: string | undefined
  readonly region?: string | undefined
  readonly tags?: readonly string[]
  /** How long the check passes without a word from us. */
  readonly ttlMs: number
  /** How long it may be critical before Consul forgets the service. */
  readonly deregisterAfterMs: number
}

/**
 * The service that an edge, or a primary, registers.
 * @throws RangeError that says what is wrong with the announcement
 */
export function serviceOf(
  name: typeof edgeServiceName | typeof primaryServiceName,
  announcement: Announcement,
): ServiceRegistration {
  const { id, url, version, site, region, tags = [], ttlMs, deregisterAfterMs } = announcement
  if (!isEdgeId(id)) throw new RangeError(`'${id}' is no id that Consul can be told`)
  if (!isServiceUrl(url))
    throw new RangeError(
      `${url} is no URL that others can be told in Consul: set external_url, or consul.url`,
    )
  if (!isVersion(version)) throw new RangeError(`'${version}' is no version`)
  for (const place of [site, region])
    if (place !== undefined && !isPlace(place))
      throw new RangeError(`'${place}' is no name of a site or region`)
  const at = new URL(url)
  const serviceId = `${name}-${id}`
  return {
    id: serviceId,
    name,
    address: hostOf(at),
    port: portOf(at),
    tags,
    meta: {
      id,
      url: at.origin,
      version,
      ...(site !== undefined && { site }),
      ...(region !== undefined && { region }),
    },
    check: {
      id: `service:${serviceId}`,
      name: 'Outport says that it serves',
      notes:
        'Passed by Outport itself. Its output stays empty: each change of it would be written to the servers.',
      ttlMs,
      status: 'passing',
      deregisterAfterMs,
    },
  }
}

/** As the primary gives them out. */
export function isEdgeId(text: string): boolean {
  return text.length <= 128 && /^[a-z0-9]+(?:-[a-z0-9]+)*$/.test(text)
}

/** An http or https origin, written as it is, that can be dialled. */
export function isServiceUrl(text: string): boolean {
  if (text.length > longestMeta || !/^https?:\/\/[\x21-\x7e]+$/.test(text)) return false
  const url = URL.parse(text)
  if (url === null || url.hostname === '0.0.0.0' || url.hostname === '[::]') return false
  // No credentials, path, query or fragment, and no other way to write it: it is compared, and copied into files.
  return url.origin === text
}

/** A site or a region, as the primary takes them. */
export const placePattern = '^[a-z0-9](?:[a-z0-9._-]{0,61}[a-z0-9])?$'

export function isPlace(text: string): boolean {
  return new RegExp(placePattern).test(text)
}

export function isVersion(text: string): boolean {
  return /^[0-9A-Za-z][0-9A-Za-z.+-]{0,63}$/.test(text)
}
