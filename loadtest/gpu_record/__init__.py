"""`tierserve bench card`: all that one GPU can show of this product, in one command.

command   options, the folder of a run, which parts are left
plan      the parts, how long each takes, and the command line behind it
service   one tier on the whole GPU, as the parts ask it
parts     what the parts do that are no command of their own: fit and starts
result    from the folder of a run to record.json
page      record.json as a page, and all records that people have sent as a table
"""
