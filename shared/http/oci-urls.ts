import { LRUCache } from 'lru-cache'
import { parseOciUrl, type OciTarget } from '../oci/paths.ts'

/** Reads the raw URLs of `/v2/` requests as `parseOciUrl` does; those that come again and again are remembered. */
export type OciUrlReader = (rawUrl: string) => OciTarget | undefined

/** What is remembered, and what an entry takes beside its key. */
const maxBytes = 4 * 1024 * 1024
const entryBytes = 600

export function createOciUrlReader(): OciUrlReader {
  const known = new LRUCache<string, OciTarget>({
    maxSize: maxBytes,
    sizeCalculation: (_target, url) => 2 * url.length + entryBytes,
  })
  return (rawUrl) => {
    const remembered = known.get(rawUrl)
    if (remembered !== undefined) return remembered
    const target = parseOciUrl(rawUrl)
    if (target !== undefined) known.set(rawUrl, target)
    return target
  }
}
