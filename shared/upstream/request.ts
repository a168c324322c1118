import type { UpstreamRequest } from './fetch.ts'
import type { Credential, RegistryEntry } from './registries.ts'

/** The credential of a request: the client's, nobody's, or the entry's own. */
export function credentialOf(
  entry: RegistryEntry,
  { credential }: Pick<UpstreamRequest, 'credential'>,
): Credential | undefined {
  if (credential === 'anonymous') return undefined
  return credential ?? entry.credential
}

/** A path under `/v2/`, behind the entry's own path. */
export function urlAt(entry: RegistryEntry, path: string): URL {
  return new URL(`${entry.url.pathname.replace(/\/+$/, '')}${path}`, entry.url)
}

/** Whether a body is not as it was stored: its digest could not be right. */
export function isEncoded(contentEncoding: string | undefined): boolean {
  return contentEncoding !== undefined && contentEncoding.trim().toLowerCase() !== 'identity'
}

/** Reads `Content-Length`; undefined when it is missing or no size. */
export function sizeOf(contentLength: string | undefined): number | undefined {
  return contentLength !== undefined && /^\d{1,15}$/.test(contentLength)
    ? Number(contentLength)
    : undefined
}
