def build_report(context):
    pass
