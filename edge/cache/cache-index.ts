import { Level } from 'level'
import { LRUCache } from 'lru-cache'
import type { SinkProgress } from '../../shared/fill/sink.ts'
import type { Digest } from '../../shared/oci/digest.ts'
import type { Descriptor } from '../../shared/oci/manifest.ts'
import {
  isRepositoryName,
  isTag,
  type RepositoryName,
  type Tag,
} from '../../shared/oci/reference.ts'
import { isPartName, type PartName } from './blob-files.ts'
import type { HeldBlob, UseRecord } from './gdsf.ts'
import { createIndexWrites, type IndexWrites } from './index-writes.ts'
import type { PullRecords } from './pull-log.ts'

/** A repository of one upstream: what a link, a manifest and a tag belong to. */
export interface Origin {
  /** The upstream's immutable id. */
  readonly upstream: string
  /** The name at the upstream. */
  readonly repository: RepositoryName
  /**
   * The id of the project that the name stood in when the primary allowed the request; undefined at other
   * registries. A name that is made again stands in another project, and inherits no links.
   */
  readonly project?: number | undefined
}

/** What is on the disk, whole and proved. */
export interface StoredEntry {
  /** Bytes. */
  readonly size: number
  /** When the file had last been changed as it was proved, in epoch ms; undefined: to be proved when it is read. */
  readonly changedAt?: number
  /** When its bytes were last proved, in epoch ms: as they came, or by reading them again. */
  readonly provedAt?: number
  /** Whose share of the cache it counts in: of whoever brought it. */
  readonly owner?: string
}

/** That a repository has a digest, by what its upstream delivered or its primary answered. */
export interface Link {
  /** The media type the manifest was delivered with; undefined for a blob. */
  readonly mediaType?: string
  /** The project's id at the primary: the link counts in that project only. */
  readonly project?: number
}

/** Where a tag pointed when its upstream was last asked. */
export interface TagEntry {
  readonly digest: Digest
  /** Epoch ms of the upstream's last answer. */
  readonly checkedAt: number
  /** What it was asked with the next time, as the upstream gave it. */
  readonly etag?: string
  /** The project's id at the primary: a name that is made again has other tags. */
  readonly project?: number
}

export interface ListedTag {
  readonly tag: Tag
  readonly entry: TagEntry
}

/**
 * The edge's records. Hot links and tags come from memory, the others from LevelDB's own cache in
 * microseconds, so all are read in place; writes are asynchronous, and unsynced unless said: what a crash
 * loses is found again on the disk.
 */
export interface CacheIndex {
  stored(digest: Digest): StoredEntry | undefined
  putStored(digest: Digest, entry: StoredEntry): Promise<void>
  removeStored(digest: Digest): Promise<void>
  link(origin: Origin, digest: Digest): Link | undefined
  putLink(origin: Origin, digest: Digest, link: Link): Promise<void>
  tag(origin: Origin, tag: Tag): TagEntry | undefined
  putTag(origin: Origin, tag: Tag, entry: TagEntry): Promise<void>
  removeTag(origin: Origin, tag: Tag): Promise<void>
  /** Whether another tag of the repository points there. */
  isTagged(origin: Origin, digest: Digest, except: Tag): Promise<boolean>
  /** The tags of the origin's repository, in its project. */
  listTags(origin: Origin): Promise<readonly ListedTag[]>
  /** The tags of a repository, in whatever project. */
  listAllTags(origin: Omit<Origin, 'project'>): Promise<readonly ListedTag[]>
  /** That a manifest of the origin's repository refers to another. */
  putReferrer(origin: Origin, subject: Digest, referrer: Descriptor): Promise<void>
  /** What was recorded of the subject's referrers in the origin's repository, in its project. */
  listReferrers(origin: Origin, subject: Digest): Promise<readonly Descriptor[]>
  /** Repositories of an upstream of which a tag was asked for. */
  listRepositories(upstream: string): Promise<readonly RepositoryName[]>
  progress(part: PartName): SinkProgress | undefined
  /** Synced: a restart trusts it. */
  putProgress(part: PartName, progress: SinkProgress): Promise<void>
  removeProgress(part: PartName): Promise<void>
  /** The parts of unfinished fills. */
  listProgress(): Promise<readonly PartName[]>
  /** A small document under a name: the primary's key set, this edge's own token key. */
  document(name: string): unknown
  putDocument(name: string, value: unknown): Promise<void>
  /** The stored digest behind another in the order of the keys; the first one without. */
  nextStored(after: Digest | undefined): Promise<Digest | undefined>
  /** All that is stored at the moment of the call, with how it was used: many at a time, in the order of the keys. */
  walkHeld(): AsyncIterable<readonly HeldBlob[]>
  putUses(records: ReadonlyMap<Digest, UseRecord>): Promise<void>
  /** What clients pulled, as far as the primary has not been told. */
  readonly pulls: PullRecords
  /** Whether it knows all that is on the disk: false for a new index until `markComplete`. */
  readonly complete: boolean
  /** Says that the disk has been walked. */
  markComplete(): Promise<void>
  close(): Promise<void>
}

// Names hold no '!', and '!' sorts below every character of the grammars.
const keys = {
  stored: (digest: Digest) => `b!${digest}`,
  uses: (digest: Digest) => `u!${digest}`,
  link: ({ upstream, repository }: Origin, digest: Digest) =>
    `l!${upstream}!${repository}!${digest}`,
  tag: ({ upstream, repository }: Origin, tag: Tag | '') => `t!${upstream}!${repository}!${tag}`,
  /** `l!` and `t!` are by repository and name; so are these, in front of the referrer. */
  referrer: ({ upstream, repository }: Origin, subject: Digest, referrer: Digest | '') =>
    `r!${upstream}!${repository}!${subject}!${referrer}`,
  progress: (part: PartName) => `p!${part}`,
  document: (name: string) => `d!${name}`,
  pulls: (key: string) => `n!${key}`,
  complete: 'c!complete',
}

/**
 * Opens the index in a folder of its own, or makes one.
 * @throws when the folder is damaged or another process holds it; the caller decides whether to start anew
 */
export async function openCacheIndex(folder: string): Promise<CacheIndex> {
  const level = new Level<string, unknown>(folder, { valueEncoding: 'json' })
  await level.open()
  const complete = level.getSync(keys.complete) === true
  const read = (key: string) => readNow(level, key)
  const writes = createIndexWrites(level, folder)
  const put = (key: string, value: unknown) => writes.put(key, value)
  const hot = createHotRecords(read, writes)
  /** What is behind a key that ends in '!', by what follows it there. */
  const recordsBehind = async function* (key: string): AsyncGenerator<[string, unknown]> {
    const range = { gt: key, lt: behindAll(key) }
    for await (const [found, value] of level.iterator(range)) yield [found.slice(key.length), value]
  }
  const listAllTags: CacheIndex['listAllTags'] = async (origin) => {
    const tags: ListedTag[] = []
    for await (const [tag, value] of recordsBehind(keys.tag(origin, '')))
      if (isTag(tag)) tags.push({ tag, entry: value as TagEntry })
    return tags
  }
  return {
    complete,
    markComplete: () => writes.put(keys.complete, true, { sync: true }),
    stored: (digest) => read(keys.stored(digest)) as StoredEntry | undefined,
    putStored: (digest, entry) => put(keys.stored(digest), entry),
    removeStored: (digest) =>
      writes.batch([
        { type: 'del', key: keys.stored(digest) },
        { type: 'del', key: keys.uses(digest) },
      ]),
    link: (origin, digest) => hot.get<Link>(keys.link(origin, digest)),
    putLink: (origin, digest, link) => hot.put(keys.link(origin, digest), link),
    tag: (origin, tag) => hot.get<TagEntry>(keys.tag(origin, tag)),
    putTag: (origin, tag, entry) => hot.put(keys.tag(origin, tag), entry),
    removeTag: (origin, tag) => hot.remove(keys.tag(origin, tag)),
    async isTagged(origin, digest, except) {
      for await (const [tag, entry] of recordsBehind(keys.tag(origin, '')))
        if (tag !== except && (entry as TagEntry).digest === digest) return true
      return false
    },
    listTags: async (origin) =>
      (await listAllTags(origin)).filter(({ entry }) => entry.project === origin.project),
    listAllTags,
    putReferrer: (origin, subject, descriptor) => {
      const record: ReferrerRecord = { descriptor, project: origin.project }
      return put(keys.referrer(origin, subject, descriptor.digest), record)
    },
    async listReferrers(origin, subject) {
      const referrers: Descriptor[] = []
      for await (const [, value] of recordsBehind(keys.referrer(origin, subject, ''))) {
        const { descriptor, project } = value as ReferrerRecord
        if (project === origin.project) referrers.push(descriptor)
      }
      return referrers
    },
    async listRepositories(upstream) {
      const repositories: RepositoryName[] = []
      const before = `t!${upstream}!`
      // From the first key of one repository to the first of the next: a repository may have thousands.
      for (let gt = before; ;) {
        const [key] = await level.keys({ gt, lt: behindAll(before), limit: 1 }).all()
        const repository = key?.slice(before.length).split('!')[0] ?? ''
        if (!isRepositoryName(repository)) return repositories
        repositories.push(repository)
        gt = behindAll(`${before}${repository}!`)
      }
    },
    progress: (part) => read(keys.progress(part)) as SinkProgress | undefined,
    putProgress: (part, progress) => writes.put(keys.progress(part), progress, { sync: true }),
    removeProgress: (part) => writes.del(keys.progress(part)),
    async listProgress() {
      const parts: PartName[] = []
      for await (const key of level.keys({ gt: 'p!', lt: 'p"' })) {
        const part = key.slice('p!'.length)
        if (isPartName(part)) parts.push(part)
      }
      return parts
    },
    document: (name) => read(keys.document(name)),
    putDocument: (name, value) => put(keys.document(name), value),
    async nextStored(after) {
      const gt = after === undefined ? 'b!' : keys.stored(after)
      const [key] = await level.keys({ gt, lt: 'b"', limit: 1 }).all()
      return key?.slice('b!'.length) as Digest | undefined
    },
    walkHeld: () => walkHeld(level),
    async putUses(records) {
      await writes.batch(
        [...records].map(([digest, value]) => ({ type: 'put', key: keys.uses(digest), value })),
      )
    },
    pulls: {
      async list() {
        const records: [string, unknown][] = []
        for await (const record of recordsBehind(keys.pulls(''))) records.push(record)
        return records
      },
      write: (changes, options) =>
        writes.batch(
          [...changes].map(([key, value]) =>
            value === undefined
              ? { type: 'del', key: keys.pulls(key) }
              : { type: 'put', key: keys.pulls(key), value },
          ),
          options,
        ),
    },
    close: () => writes.close(),
  }
}

/** A promise for each record would cost more than reading it. */
const walkedAtOnce = 1000

/** Its snapshots are taken by the call. */
function walkHeld(level: Level<string, unknown>): AsyncGenerator<readonly HeldBlob[]> {
  const blobs = level.iterator({ gt: 'b!', lt: 'b"' })
  const uses = level.iterator({ gt: 'u!', lt: 'u"' })
  return walk()

  async function* walk(): AsyncGenerator<readonly HeldBlob[]> {
    try {
      // Both are in the order of the digests: uses are read as far as the blobs are.
      const known = new Map<string, UseRecord>()
      let usesEnd = ''
      for (;;) {
        const found = await blobs.nextv(walkedAtOnce)
        const last = found.at(-1)?.[0].slice('b!'.length)
        if (last === undefined) return
        while (usesEnd < last) {
          const more = await uses.nextv(walkedAtOnce)
          for (const [key, record] of more) known.set(key.slice('u!'.length), record as UseRecord)
          usesEnd = more.at(-1)?.[0].slice('u!'.length) ?? behindAllDigests
        }
        yield found.map(([key, entry]) => {
          const digest = key.slice('b!'.length) as Digest
          const { size, owner } = entry as StoredEntry
          const record = known.get(digest)
          known.delete(digest)
          return { digest, bytes: size, record, owner }
        })
      }
    } finally {
      await Promise.all([blobs.close(), uses.close()])
    }
  }
}

/** While the index is opened again after its disk was ill, it holds nothing, and the upstream is asked. */
function readNow(level: Level<string, unknown>, key: string): unknown {
  return level.status === 'open' ? level.getSync(key) : undefined
}

interface ReferrerRecord {
  readonly descriptor: Descriptor
  readonly project: number | undefined
}

const behindAllDigests = '~'

/** The first key behind all that begin with this one, which ends in '!'. */
function behindAll(key: string): string {
  return `${key.slice(0, -1)}"`
}

/** Memory for hot links and tags, and what one costs beside its key. */
const hotRecordsBytes = 8 * 1024 * 1024
const hotRecordBytes = 300

/** Reads through memory. What is written is read again from the database once the write is over. */
function createHotRecords(read: (key: string) => unknown, writes: IndexWrites) {
  const records = new LRUCache<string, object>({
    maxSize: hotRecordsBytes,
    sizeCalculation: (_record, key) => 2 * key.length + hotRecordBytes,
  })
  const write = async (key: string, work: Promise<void>): Promise<void> => {
    try {
      await work
    } finally {
      records.delete(key)
    }
  }
  return {
    get<Value extends object>(key: string): Value | undefined {
      const known = records.get(key)
      if (known !== undefined) return known as Value
      const found = read(key) as Value | undefined
      if (found !== undefined) records.set(key, found)
      return found
    },
    put: (key: string, value: object) => write(key, writes.put(key, value)),
    remove: (key: string) => write(key, writes.del(key)),
  }
}
