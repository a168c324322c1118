import { isTag } from '../oci/reference.ts'
import { SourceError } from '../stream/blob-source.ts'
import type { RegistryEntry } from './registries.ts'

/** Lists are read up to this size. */
export const listMaxBytes = 4 * 1024 * 1024

/** What upstream response headers may go on to clients; never `Set-Cookie`, never `X-Accel-Redirect`. */
const passed = [
  'docker-content-digest',
  'etag',
  'last-modified',
  'oci-filters-applied',
  'oci-subject',
] as const

/** The headers of the allow-list. */
export function passedHeaders(
  headers: Readonly<Record<string, string>>,
): Readonly<Record<string, string>> {
  const kept: Record<string, string> = {}
  for (const name of passed) {
    const value = headers[name]
    if (value !== undefined) kept[name] = value
  }
  return kept
}

/** @throws SourceError `broken` unless the body is a JSON object */
export function parseObject(entry: RegistryEntry, body: Buffer): Record<string, unknown> {
  try {
    const parsed: unknown = JSON.parse(body.toString())
    if (typeof parsed === 'object' && parsed !== null) return parsed as Record<string, unknown>
  } catch {
    // Falls through to the same complaint.
  }
  throw new SourceError('broken', `${entry.id} answers a list with something else`)
}

/** The tags of a page; some registries write an empty list as null. */
export function readTags(entry: RegistryEntry, body: Buffer): readonly string[] {
  const tags = parseObject(entry, body)['tags'] ?? []
  if (!Array.isArray(tags)) throw new SourceError('broken', `${entry.id} gives no list of tags`)
  return tags.filter((tag: unknown): tag is string => typeof tag === 'string' && isTag(tag))
}

/**
 * The page that a `Link` calls the next one. Only its query is taken: it is asked at the place of the last one,
 * whatever origin and path the far side names.
 */
export function nextPage(here: URL, headers: Readonly<Record<string, string>>): URL | undefined {
  const [, target] = /<([^>]*)>[^,]*;\s*rel="?next"?/i.exec(headers['link'] ?? '') ?? []
  const named = target === undefined ? null : URL.parse(target, here.href)
  if (named === null) return undefined
  const next = new URL(here)
  next.search = named.search
  return next
}
