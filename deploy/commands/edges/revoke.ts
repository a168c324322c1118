import type { AdminApi } from '../../admin-api.ts'
import { defineCommand, UsageError } from '../../command-line.ts'
import { confirm } from '../../secret-input.ts'
import type { ShownExposure } from './exposure.ts'
import { adminOptions, edgePath, type AdminFlags } from './options.ts'
import type { SecretSink } from './rotate.ts'

/** `outport edges revoke` */
export const revoke = defineCommand({
  name: 'edges revoke',
  summary: 'end an edge for good: its secret and certificate count no more',
  words: ['ID'],
  options: {
    ...adminOptions,
    yes: { type: 'boolean', help: 'do not ask whether it is meant' },
    'rotate-robots': {
      type: 'boolean',
      help: 'give each robot that may pull through it a new secret, and print name and secret',
    },
    output: {
      type: 'string',
      value: 'FILE',
      help: 'a new file for those secrets, which only its owner may read; else they are printed',
    },
  },
  notes: `Says first what the edge could read, on standard error. --json prints that on standard output, as the API says it, and then an object for each new secret.`,
  async run(options, [id = '']) {
    if (options.output !== undefined && !options['rotate-robots'])
      throw new UsageError('--output is for the secrets of --rotate-robots, which is not given')
    const { withAdminApi } = await import('../../admin-api.ts')
    return withAdminApi(options, (api) => revokeEdge(api, id, options))
  },
})

interface RevokeFlags extends AdminFlags {
  readonly json: boolean
  readonly yes: boolean
  readonly 'rotate-robots': boolean
  readonly output: string | undefined
}

async function revokeEdge(api: AdminApi, id: string, options: RevokeFlags): Promise<number> {
  const { askForExposure, formatExposure } = await import('./exposure.ts')
  const { exposure, json } = await askForExposure(api, id)
  if (options.json) process.stdout.write(`${JSON.stringify(json)}\n`)
  if (!options.json || !options.yes) process.stderr.write(formatExposure(id, exposure))
  const isMeant =
    options.yes ||
    (await confirm(`Revoke the edge '${id}' for good?`, {
      otherwise: `nobody can be asked here whether '${id}' is to be revoked for good: say --yes`,
    }))
  if (!isMeant) {
    process.stderr.write(`The edge '${id}' stays.\n`)
    return 1
  }
  const { openSecretFile, printSecrets } = await import('./rotate.ts')
  // Before anything is done: a file that cannot be written must cost no secret.
  const sink =
    options.output === undefined ? printSecrets(options) : await openSecretFile(options.output)
  try {
    const { path, absent } = edgePath(id)
    await api.call(path, { method: 'DELETE', absent })
    const said = options['rotate-robots'] || options.json ? process.stderr : process.stdout
    said.write(
      `The edge '${id}' is revoked. What it holds stays on its disk; to come back it joins anew, by a new token.\n`,
    )
    return options['rotate-robots'] ? await rotateRobots(api, { exposure, sink }) : 0
  } finally {
    await sink.close()
  }
}

async function rotateRobots(
  api: AdminApi,
  {
    exposure: { robots },
    sink,
  }: {
    readonly exposure: ShownExposure
    readonly sink: SecretSink
  },
): Promise<number> {
  const { rotateSecrets } = await import('./rotate.ts')
  const failures = await rotateSecrets(api, { robots, sink })
  process.stderr.write(
    `${robots.length - failures.length} of ${robots.length} robots have a new secret; the old ones count no more.\n`,
  )
  for (const failure of failures) process.stderr.write(`no new secret for ${failure}\n`)
  return failures.length === 0 ? 0 : 1
}
