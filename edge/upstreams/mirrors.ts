import { isRepositoryName, type RepositoryName } from '../../shared/oci/reference.ts'
import type { UpstreamOptions } from '../config.ts'

/** An upstream that stands for another one's content. */
export interface Mirror {
  /** The upstream's id. */
  readonly id: string
  /** What its repositories begin with: a Harbor proxy project, a prefix of an ECR pull-through cache. */
  readonly prefix: RepositoryName | undefined
}

/** The mirrors of one upstream, in the order in which they are asked. */
export interface Mirrors {
  readonly list: readonly Mirror[]
  /** Milliseconds that one may send nothing. */
  readonly waitMs: number
}

/** Reads `id` or `id/prefix`, as in `/v2/<id>/…`; undefined when it is neither. */
export function parseMirror(text: string): Mirror | undefined {
  const slash = text.indexOf('/')
  if (slash < 0) return { id: text, prefix: undefined }
  const prefix = text.slice(slash + 1)
  return isRepositoryName(prefix) ? { id: text.slice(0, slash), prefix } : undefined
}

/** The mirrors of each upstream of the table; a mirror's own ones are not followed. */
export function createMirrors(
  upstreams: readonly UpstreamOptions[],
): (upstream: string) => Mirrors {
  const mirrors = new Map(
    upstreams.map(({ id, mirrors: texts, mirror_wait: waitMs }) => {
      const list = texts.flatMap((text) => parseMirror(text) ?? [])
      return [id, { list, waitMs }]
    }),
  )
  return (upstream) => mirrors.get(upstream) ?? { list: [], waitMs: 0 }
}

/** What a repository is called at a mirror; undefined when it has no name there: it is too long. */
export function repositoryAtMirror(
  { prefix }: Mirror,
  repository: RepositoryName,
): RepositoryName | undefined {
  if (prefix === undefined) return repository
  const name = `${prefix}/${repository}`
  return isRepositoryName(name) ? name : undefined
}
