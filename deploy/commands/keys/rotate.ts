import { isRecord } from '../../../shared/config/record.ts'
import type { AdminApi } from '../../admin-api.ts'
import { defineCommand, UsageError } from '../../command-line.ts'
import { onOneLine } from '../../one-line.ts'
import { StartError } from '../../start-errors.ts'
import { printAnswer } from '../edges/change.ts'
import { adminOptions } from '../edges/options.ts'
import { rootOption } from './sign.ts'

const purposes = ['root', 'log', 'jwt', 'edge-ca']
const absent = 'this primary has no keys to rotate: check that --primary is an Outport primary'

/** `outport keys rotate` */
export const rotate = defineCommand({
  name: 'keys rotate',
  summary: 'have a new key take the place of the one that signs',
  words: ['root|log|jwt|edge-ca'],
  options: {
    ...adminOptions,
    'at-once': {
      type: 'boolean',
      help: 'it signs from now on, for a key that was stolen: some pulls may fail for seconds',
    },
    to: {
      type: 'string',
      value: 'FILE',
      help: "root: the one in this file, as 'keys make-root' made it, which stays there",
    },
    root: {
      ...rootOption,
      help: 'with --to: the file of the root before, where that is kept offline, too',
    },
  },
  notes: `What the key before signed counts until it ends by itself; 'outport keys drop' ends it at once.`,
  async run({ to, root, ...options }, [purpose = '']) {
    if (!purposes.includes(purpose))
      throw new UsageError(`keys rotate needs one of ${purposes.join(', ')}, not '${purpose}'`)
    if (to !== undefined && purpose !== 'root') throw new UsageError('--to is for the root alone')
    if (to === undefined && root.length > 0)
      throw new UsageError("--root goes with --to; 'outport keys sign' signs what waits")
    const { withAdminApi } = await import('../../admin-api.ts')
    return withAdminApi(options, async (api) => {
      if (to !== undefined) {
        const text = await moveRoot(api, { to, before: root })
        const done = `The root is in ${to}, and signs there alone from now on.`
        printAnswer(text, { json: options.json, done })
        return 0
      }
      const { text, json } = await api.call('/keys/rotate', {
        method: 'POST',
        body: { purpose, ...(options['at-once'] && { at_once: true }) },
        absent,
      })
      const done = `The new ${purpose} key ${whenItSigns(json)}.`
      printAnswer(text, { json: options.json, done })
      return 0
    })
  },
})

function whenItSigns(json: unknown): string {
  if (!isRecord(json)) return 'signs now'
  const { signs_from: from, waits_for_root: waits } = json
  if (waits === true)
    return "waits for the root, which is kept offline: 'outport keys sign --root FILE' signs the list that names it"
  return typeof from === 'string' ? `signs from ${onOneLine(from)} on` : 'signs now'
}

/** Only its public half goes to the primary. @returns what the API says of it */
async function moveRoot(
  api: AdminApi,
  { to, before }: { readonly to: string; readonly before: readonly string[] },
): Promise<string> {
  const { readRootFile } = await import('./root-file.ts')
  const { fetchPending, signPending, submitPending } = await import('./pending-list.ts')
  const roots = await Promise.all([to, ...before].map(readRootFile))
  const jwk = roots[0]?.jwk
  const { text } = await api.call('/keys/root', { method: 'POST', body: { jwk }, absent })
  const waiting = await fetchPending(api)
  if (waiting === undefined) throw new StartError('the primary has nothing to sign: try again')
  await submitPending(api, signPending(waiting, roots))
  return text
}
