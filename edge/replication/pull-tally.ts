import type { Digest } from '../../shared/oci/digest.ts'
import type { RepositoryName, Tag } from '../../shared/oci/reference.ts'

/** GETs of one manifest, by one tag or by its digest, since the last look. */
export interface TalliedPulls {
  /** The id of the project that the repository stood in; undefined where everybody may read. */
  readonly project: number | undefined
  readonly repository: RepositoryName
  readonly digest: Digest
  /** undefined: by its digest. */
  readonly tag: Tag | undefined
  count: number
  /** Epoch ms. */
  lastAt: number
}

/** Counts in memory: what each request does. */
export interface PullTally {
  count(pull: Omit<TalliedPulls, 'count' | 'lastAt'>): void
  /** What was counted since the last time. */
  take(): readonly TalliedPulls[]
}

/** By repository, digest and tag, one inside the other: a key of all three would be a new text for each request. */
type Repositories = Map<RepositoryName, Map<Digest, Map<Tag | undefined, TalliedPulls>>>

/** @param now epoch ms */
export function createPullTally(now: () => number): PullTally {
  let projects = new Map<number | undefined, Repositories>()
  let all: TalliedPulls[] = []
  return {
    count({ project, repository, digest, tag }) {
      const repositories = inside(projects, project)
      const digests = inside(repositories, repository)
      const tags = inside(digests, digest)
      let tallied = tags.get(tag)
      if (tallied === undefined) {
        tallied = { project, repository, digest, tag, count: 0, lastAt: 0 }
        tags.set(tag, tallied)
        all.push(tallied)
      }
      tallied.count++
      tallied.lastAt = now()
    },
    take() {
      const taken = all
      all = []
      projects = new Map()
      return taken
    },
  }
}

function inside<Key, InnerKey, Value>(
  maps: Map<Key, Map<InnerKey, Value>>,
  key: Key,
): Map<InnerKey, Value> {
  let found = maps.get(key)
  if (found === undefined) {
    found = new Map()
    maps.set(key, found)
  }
  return found
}
